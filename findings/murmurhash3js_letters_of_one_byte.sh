#!/usr/bin/env bash
# murmurhash3js 3.0.1 (npm): the 20,901 most used Chinese characters have 256 hashes, and "\u4e2d" has the one of "-".
#
# Expected: the hash of the UTF-8 bytes of a text, as murmurhash 2.0.1 and Python's mmh3 give, or at least different
#   hashes for different texts, as imurmurhash 0.1.4 gives.
# Observed: x86.hash32 takes the lower byte of each UTF-16 unit and drops the upper one. Texts whose letters differ by a
#   multiple of 256 are equal: all of Chinese is 256 letters, and "\u0161" is "a". For ASCII the hashes are right.
#   x64.hash128 keeps the whole unit, and is still another hash than that of the bytes. The README has no word on texts.
# Why it matters: texts are put into parts, buckets and Bloom filters by this hash, and duplicates are found by it. Two
#   different short Chinese texts count as duplicates far more often, and files written in Python have other hashes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund murmurhash3js@3.0.1 murmurhash@2.0.1 imurmurhash@0.1.4 > npm.log 2>&1 ||
  { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import imurmurhash from "imurmurhash";
import murmurhash from "murmurhash";
import murmurhash3js from "murmurhash3js";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
console.log("murmurhash3js", version("murmurhash3js"), "murmurhash", version("murmurhash"));
const code = (letter) => "\\u" + letter.charCodeAt(0).toString(16).padStart(4, "0");
const show = (text) => JSON.stringify(text).replace(/[^ -~]/g, code);
const hash = (text) => murmurhash3js.x86.hash32(text);
// The right ones are those of mmh3.hash(text, signed=False) in Python.
for (const [text, found, right] of [
  ["-", 4182070047, 4182070047],
  ["\u4e2d", 4182070047, 3739180114],
  ["a", 1009084850, 1009084850],
  ["\u0161", 1009084850, 2061141819],
]) {
  console.log(show(text), hash(text), "instead of", right);
  assert.equal(murmurhash.v3(text), right);
  assert.equal(hash(text), found, "the behavior has changed");
}
const letters = Array.from({ length: 20901 }, (_, index) => String.fromCodePoint(0x4e00 + index));
const different = (f) => new Set(letters.map(f)).size;
console.log(letters.length, "characters have", different(hash), "hashes");
assert.equal(different((text) => murmurhash.v3(text)), letters.length);
assert.equal(different((text) => imurmurhash(text).result()), letters.length);
assert.equal(different(hash), 256, "the behavior has changed");
JS
node run.mjs
