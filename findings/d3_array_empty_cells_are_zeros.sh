#!/usr/bin/env bash
# d3-array 3.2.5 (npm): the mean of the CSV cells "3", "" and "3" is 2, their median with one more "" is 1.5, and the
#   sum is right.
#
# Expected: an empty cell is a missing value and is left out, as null, undefined and NaN are, which the documentation
#   of mean says; or it counts as a text that is no number.
# Observed: "+value" makes 0 of an empty text, and of spaces, so both are zeros that count. mean, median, quantile,
#   variance and deviation are wrong, and min gives "". d3.csvParse of d3-dsv 3.0.2 gives such texts for empty cells;
#   its autoType makes null of them, and then all is right.
# Why it matters: logs of training have empty cells where a step was not evaluated. The chart of mean losses by d3 is
#   too low, the more cells are empty, and no value is missing in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund d3-array@3.2.5 d3-dsv@3.0.2 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import * as d3 from "d3-array";
import { autoType, csvParse } from "d3-dsv";

const read = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
console.log("d3-array", read("d3-array"), "d3-dsv", read("d3-dsv"));
const file = "step,loss\n1,3\n2,\n3,3\n4,  \n";
const statistics = (rows) => {
  const losses = rows.map((row) => row.loss);
  return {
    mean: d3.mean(losses), median: d3.median(losses), quartile: d3.quantile(losses, 0.25),
    variance: d3.variance(losses), count: d3.count(losses), sum: d3.sum(losses),
  };
};
const found = statistics(csvParse(file));
const typed = statistics(csvParse(file, autoType));
console.log("as read:", found);
console.log("by autoType:", typed);
assert.deepEqual(typed, { mean: 3, median: 3, quartile: 3, variance: 0, count: 2, sum: 6 });
const wrong = { mean: 1.5, median: 1.5, quartile: 0, variance: 3, count: 4, sum: 6 };
assert.deepEqual(found, wrong, "the behavior has changed");
assert.equal(d3.mean(["3", "", "3"]), 2, "the behavior has changed");
assert.equal(d3.mean(["3", null, undefined, NaN, "NaN", "3"]), 3);
assert.equal(d3.min(csvParse(file), (row) => row.loss), "", "the behavior has changed");
JS
node run.mjs
