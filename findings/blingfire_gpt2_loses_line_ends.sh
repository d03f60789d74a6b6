#!/usr/bin/env bash
# blingfire 0.1.8: its GPT-2 model gives "a\nb", "a\tb", "a   b" and " a b" the tokens of " a b".
#
# Expected: the tokens of GPT-2: all white space is in them, and the text can be decoded again. The README lists
#   gpt2.bin as "Byte-BPE tokenization model for GPT-2".
# Observed: white space only divides words. Line ends, tabs, indentation and all but one of several spaces are gone,
#   and each word, the first one too, gets one space in front. "don't" is " don", "'t" as it should be, and "I'LL" is
#   " I", "'", "LL".
# Why it matters: counts of tokens, and shards that are written by it because it is fast, are those of another text:
#   programs, poems and tables are one line, and a model that learns from them never writes a line end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund tiktoken@1.0.22 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv venv
venv/bin/pip --disable-pip-version-check install -q blingfire==0.1.8 numpy==2.4.6
cat > run.py <<'PY'
import json
import os
import sys
from importlib.metadata import version

import blingfire

print("blingfire", version("blingfire"), file=sys.stderr)
model = blingfire.load_model(os.path.join(os.path.dirname(blingfire.__file__), "gpt2.bin"))
with open("texts.json") as file:
    texts = json.load(file)
print(json.dumps([blingfire.text_to_ids(model, text, 64, no_padding=True).tolist() for text in texts]))
PY
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { get_encoding } from "tiktoken";

const gpt2 = get_encoding("gpt2");
const texts = ["a b", " a b", "a\nb", "a\tb", "a   b", "a b\n", "def f(x):\n    return x\n", " don't", " I'LL"];
writeFileSync("texts.json", JSON.stringify(texts));
const found = JSON.parse(execFileSync("venv/bin/python", ["run.py"], { stdio: ["ignore", "pipe", "inherit"] }));
const decode = (ids) => new TextDecoder().decode(gpt2.decode(Uint32Array.from(ids)));
for (const [index, text] of texts.entries()) {
  const right = [...gpt2.encode(text)];
  console.log(JSON.stringify(text), JSON.stringify(found[index]), "right", JSON.stringify(right));
  assert.equal(decode(right), text);
  const words = text.trim().split(/\s+/).map((word) => " " + word).join("");
  assert.equal(decode(found[index]), words, "the behavior has changed");
}
JS
node run.mjs
