#!/usr/bin/env bash
# vega-loader 5.1.3 (npm): in a CSV file the models "gpt 1", "gpt 2" and "gpt 3" are January, February and March 2001.
#
# Expected: names are texts. The documentation of parse: "auto", the way in which Vega-Lite and Altair read files, says
#   that it finds out whether a column has booleans, integers, numbers, dates or strings.
# Observed: a column is of dates if JavaScript's Date.parse takes all its texts, and V8 takes any word before a number
#   of a month or a year: "run-1", "layer 3", "seed 0", "h.1", "1-2". "layer 1" to "layer 12" are twelve months of 2001,
#   and with a "layer 13" the column is of texts again. "gpt2", "step_100" and "v2.1" stay. 12e3456, a commit, is a
#   number, Infinity. The types of d3-dsv's autoType need dates of ISO 8601 and leave the names.
# Why it matters: results are compared by the names of models, runs, layers and seeds. A chart of them has an axis of
#   time, on which "gpt 3" is 28 days from "gpt 2" and "seed 1" a year from "seed 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund vega-loader@5.1.3 d3-dsv@3.0.1 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { autoType, csvParse } from "d3-dsv";
import { read } from "vega-loader";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
console.log("vega-loader", version("vega-loader"), "d3-dsv", version("d3-dsv"));
const day = (value) => (typeof value === "number" ? new Date(value).toDateString().slice(4) : value);
const columns = [
  [["gpt 1", "gpt 2", "gpt 3"], ["Jan 01 2001", "Feb 01 2001", "Mar 01 2001"]],
  [["layer 3", "layer 12"], ["Mar 01 2001", "Dec 01 2001"]],
  [["layer 3", "layer 13"], null],
  [["run-1", "run-2"], ["Jan 01 2001", "Feb 01 2001"]],
  [["seed 0", "seed 1"], ["Jan 01 2000", "Jan 01 2001"]],
  [["h.0", "h.1"], ["Jan 01 2000", "Jan 01 2001"]],
  [["data-2019", "data-2020"], ["Jan 01 2019", "Jan 01 2020"]],
  [["gpt2", "gpt3"], null],
  [["step_100", "step_200"], null],
  [["v1.0", "v2.1"], null],
];
for (const [names, expected] of columns) {
  const file = "model,loss\n" + names.map((name) => `${name},3.5\n`).join("");
  const found = read(file, { type: "csv", parse: "auto" }).map((row) => day(row.model));
  console.log(JSON.stringify(names), "are", JSON.stringify(found));
  assert.deepEqual(found, expected ?? names, "the behavior has changed");
  assert.deepEqual(csvParse(file, autoType).map((row) => row.model), names);
}
const commits = read("commit\n12e3456\n1234567\n", { type: "csv", parse: "auto" }).map((row) => row.commit);
console.log("the commits 12e3456 and 1234567 are", commits);
assert.deepEqual(commits, [Infinity, 1234567], "the behavior has changed");
JS
TZ=UTC node run.mjs
