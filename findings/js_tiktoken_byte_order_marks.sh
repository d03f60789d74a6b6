#!/usr/bin/env bash
# js-tiktoken 1.0.21 and gpt-tokenizer 4.0.0: "a \ufeffb" has other GPT-2 tokens than in tiktoken; "\ufeffa" is
#   decoded as "a".
#
# Expected: the tokens of tiktoken, of which js-tiktoken is a port with the same ranks, and a text that is decoded
#   whole.
# Observed: the pattern that splits texts uses \s, to which U+FEFF, the byte order mark, belongs in JavaScript and not
#   in tiktoken's regular expressions. A space before it is a token of its own, where tiktoken has one with the first
#   byte of the mark (27332). gpt-3-encoder 1.1.4 does the same. decode() makes texts by a TextDecoder that drops a
#   mark at the start, in all three. Other characters are right.
# Why it matters: web text has such marks in the middle where files were joined. A page that counts tokens, or sends
#   ids to a server, has others than the model was trained with, and a piece of a stream that begins with a mark loses
#   it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund js-tiktoken@1.0.21 gpt-tokenizer@4.0.0 gpt-3-encoder@1.1.4 tiktoken@1.0.22 \
  > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import old from "gpt-3-encoder";
import * as other from "gpt-tokenizer/encoding/r50k_base";
import { getEncoding } from "js-tiktoken";
import { get_encoding } from "tiktoken";

const port = getEncoding("gpt2");
const reference = get_encoding("gpt2");
const code = (letter) => "\\u" + letter.charCodeAt(0).toString(16).padStart(4, "0");
const show = (text) => JSON.stringify(text).replace(/[^ -~]/g, code);
const encoders = {
  "js-tiktoken": (text) => port.encode(text),
  "gpt-tokenizer": (text) => other.encode(text),
  "gpt-3-encoder": (text) => old.encode(text),
};
for (const text of ["a b", "a\ufeffb", "a\u00a0b \u0085 c", "a \ufeffb", "x \ufeff!"]) {
  const right = [...reference.encode(text)];
  for (const [name, encode] of Object.entries(encoders)) {
    const found = encode(text);
    console.log(show(text), name, JSON.stringify(found), "tiktoken", JSON.stringify(right));
    const equal = JSON.stringify(found) === JSON.stringify(right);
    assert.equal(equal, !text.includes(" \ufeff"), "the behavior has changed");
  }
}
for (const text of ["\ufeffa", "a\ufeff", "\ufffd"]) {
  const decoded = [port.decode(port.encode(text)), other.decode(other.encode(text)), old.decode(old.encode(text))];
  console.log(show(text), "decoded:", decoded.map(show).join(" "));
  assert(decoded.every((found) => (found === text) === !text.startsWith("\ufeff")), "the behavior has changed");
}
JS
node run.mjs
