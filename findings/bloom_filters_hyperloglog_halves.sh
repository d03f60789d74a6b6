#!/usr/bin/env bash
# bloom-filters 3.0.4 (npm): HyperLogLog with 4,096 registers counts 1,000 different texts as 500, and 20,000 as
#   20,000.
#
# Expected: "a typical accuracy (standard error) of 2%", says the README for HyperLogLog, and links the paper, which
#   counts few elements by the registers that are still empty; that is nearly exact.
# Observed: 100 texts are 50, 1,000 are 500 and 3,000 are 1,500. A register holds the place of the first 1 bit, from 1
#   in the paper and from 0 here, so half of all texts leave their register as it was, and it counts as empty. Where
#   there are many times more texts than registers the error is as promised.
# Why it matters: different documents, hosts or prompts in a corpus are counted by such sketches. Each small part
#   seems to hold every text twice, and a part that grows a little seems to grow by all that was hidden.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund bloom-filters@3.0.4 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.js <<'JS'
const assert = require("node:assert");
const { HyperLogLog } = require("bloom-filters");

console.log("bloom-filters", require("bloom-filters/package.json").version);
const registers = 4096;
for (const number of [100, 1000, 3000, 20000, 40000]) {
  const sketch = new HyperLogLog(registers);
  for (let index = 0; index < number; index++) sketch.update(`text ${index}`);
  const ratio = sketch.count() / number;
  const used = sketch._registers.filter((rank) => rank > 0).length;
  const expected = registers * (1 - Math.exp(-number / registers));
  console.log(number, "texts are counted as", sketch.count().toFixed(), "with", used, "of about",
    expected.toFixed(), "registers");
  if (number < registers) {
    assert(ratio > 0.4 && ratio < 0.6, "the behavior has changed");
    assert(used < 0.7 * expected, "the behavior has changed");
  } else {
    assert(Math.abs(ratio - 1) < 0.1);
  }
}
JS
node run.js
