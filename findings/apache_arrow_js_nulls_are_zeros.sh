#!/usr/bin/env bash
# apache-arrow 21.2.0 (npm): toArray() of a column gives 0 for a null, and raw bits for float16: 15872 for 1.5.
#
# Expected: the values that get(), iteration and toJSON() of the same vector give: null and 1.5; or NaN, or an error.
# Observed: toArray() hands out the buffer of the column. A null is what lies below it, 0 in what Arrow's own builders
#   write, in Float32, Int32 and Int64 columns. A column of Float16 is a Uint16Array of bit patterns. It is so after
#   reading an IPC file as well. The documentation speaks of "the Vector's elements", as a slice without copying, and
#   of no nulls.
# Why it matters: toArray() is the fast way into charts, statistics and other libraries. Steps without an evaluation
#   have a loss of 0, the best of all, means are too small, and an embedding of float16 is read as integers near
#   15,000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund apache-arrow@21.2.0 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import * as arrow from "apache-arrow";

const { version } = JSON.parse(readFileSync("node_modules/apache-arrow/package.json"));
console.log("apache-arrow", version, "node", process.versions.node);
const columns = {
  loss: arrow.vectorFromArray([2.5, null, 1.5], new arrow.Float32()),
  tokens: arrow.vectorFromArray([7, null, 9], new arrow.Int32()),
  ids: arrow.vectorFromArray([7n, null, 9n], new arrow.Int64()),
  halves: arrow.vectorFromArray([1.5, 2.5, -1], new arrow.Float16()),
};
const expected = { loss: [2.5, 0, 1.5], tokens: [7, 0, 9], ids: [7n, 0n, 9n], halves: [15872, 16640, 48128] };
const right = { loss: [2.5, null, 1.5], tokens: [7, null, 9], ids: [7n, null, 9n], halves: [1.5, 2.5, -1] };
const table = arrow.tableFromIPC(arrow.tableToIPC(new arrow.Table(columns)));
for (const name of Object.keys(columns)) {
  for (const vector of [columns[name], table.getChild(name)]) {
    const [found, values] = [Array.from(vector.toArray()), [...vector]];
    console.log(`${name}: toArray`, found, "values", values, "nulls", vector.nullCount);
    assert.deepEqual(values, right[name]);
    assert.deepEqual(found, expected[name], "the behavior has changed");
  }
}
JS
node run.mjs
