#!/usr/bin/env bash
# fflate 0.8.3 (npm): gunzipSync of two gzip members, "one page of text\n" and "two\n", gives "one ".
#
# Expected: RFC 1952 lets a file have several members, whose texts follow each other: gzip, Node's zlib, pako 3.0.3 and
#   fflate's own class Gunzip, which reads in pieces, give both. Or an error.
# Observed: the last four bytes of the file, the length of the last member, are taken for the length of all, and as many
#   bytes of the first member, or fewer, are returned; nothing of the other members ever is. decompressSync does the
#   same. No error, and no word in the README.
# Why it matters: archives of the web (WARC) have a member for each page, and block gzip and files that were appended to
#   or joined by cat have many. A viewer in a browser shows a part of the first page, as if that were the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund fflate@0.8.3 pako@3.0.3 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { gunzipSync, gzipSync } from "node:zlib";
import * as fflate from "fflate";
import { ungzip } from "pako";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
console.log("fflate", version("fflate"), "pako", version("pako"));
const text = (bytes) => new TextDecoder().decode(bytes);
const pieces = (file) => {
  let all = "";
  new fflate.Gunzip((bytes) => { all += text(bytes); }).push(file, true);
  return all;
};
const [page, short] = ["one page of text\n", "two\n"];
for (const [members, expected] of [
  [[page], page],
  [[page, short], "one "],
  [[short, page], short],
  [[page, ""], ""],
]) {
  const file = Buffer.concat(members.map((member) => gzipSync(member)));
  const found = text(fflate.gunzipSync(file));
  console.log(JSON.stringify(members), "is read as", JSON.stringify(found));
  const right = members.join("");
  assert.deepEqual([gunzipSync(file).toString(), text(ungzip(file)), pieces(file)], [right, right, right]);
  assert.equal(found, expected, "the behavior has changed");
  assert.equal(text(fflate.decompressSync(file)), expected, "the behavior has changed");
}
JS
node run.mjs
