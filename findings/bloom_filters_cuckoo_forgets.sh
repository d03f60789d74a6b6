#!/usr/bin/env bash
# bloom-filters 3.0.4 (npm): a CuckooFilter made for 1,000 texts takes 900, and says of more than 100 that it never
#   saw them.
#
# Expected: a cuckoo filter has no false negatives: has() is false only "if the element is definitively not in the
#   filter", says the README. The rate of errors, 0.01 here, is for texts that were not added.
# Observed: when a bucket is full, a fingerprint moves to its other bucket, whose number is the exclusive or of its
#   own one and a hash. That is the way back only if the number of buckets is a power of two, and create() makes 262
#   or 2,618 of them. A moved fingerprint is then in a bucket where has() does not look. Up to half of the capacity
#   few are lost, near it one in seven. The false positives are more than twice as many as asked for.
# Why it matters: crawlers ask such a filter whether a page was seen, and pipelines whether a text is a duplicate or
#   one of the test set. Each lost text is fetched or trained on again, or passes as not contaminated.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund bloom-filters@3.0.4 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.js <<'JS'
const assert = require("node:assert");
const { BloomFilter, CuckooFilter } = require("bloom-filters");

console.log("bloom-filters", require("bloom-filters/package.json").version);
const texts = (number) => Array.from({ length: number }, (_, index) => `text ${index}`);
for (const [capacity, number, least] of [[1000, 100, 0], [1000, 900, 50], [10000, 9000, 500]]) {
  const filter = CuckooFilter.create(capacity, 0.01);
  const taken = texts(number).filter((text) => filter.add(text)).length;
  const lost = texts(number).filter((text) => !filter.has(text)).length;
  const positive = texts(10000).filter((text) => filter.has(`other ${text}`)).length;
  console.log(capacity, "for:", taken, "of", number, "taken,", lost, "lost,", positive, "of 10000 others found");
  assert.equal(taken, number);
  if (least === 0) assert.equal(lost, 0);
  else assert(lost > least, "the behavior has changed");
  const other = BloomFilter.create(capacity, 0.01);
  texts(number).forEach((text) => other.add(text));
  assert(texts(number).every((text) => other.has(text)));
}
JS
node run.js
