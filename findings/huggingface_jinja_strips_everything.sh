#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 (npm): {{ text.strip('\n') }} also removes the spaces, and {{ 'xax'.strip('x') }} is
#   "xax".
#
# Expected: chat templates are written for Python's Jinja, which transformers uses: strip, lstrip and rstrip remove
#   the characters that they are given. The package says of itself that it renders chat templates of models.
# Observed: all three ignore their argument and remove white space. Further: {{ '1' == 1 }} is true, [1] == [1] is
#   false, a name that is not defined equals none, -7 % 3 is -1, the length of an emoji is 2, and true, lists and none
#   are printed as in JSON. None of it is an error. minijinja 3.1.0, a port to Rust, has what Jinja has.
# Why it matters: templates of reasoning models (Qwen3 and its relatives) cut texts by strip('\n') and lstrip('\n').
#   In a browser or Node, an answer or a tool's output that begins with indentation loses it, so that the model is
#   given another prompt than it was trained and evaluated with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @huggingface/jinja@0.5.11 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv venv
venv/bin/pip --disable-pip-version-check install -q Jinja2==3.1.6 minijinja==3.1.0
cat > cases.json <<'JSON'
[["{{ text.lstrip('\\n') }}", "\n  indented", "  indented", "indented"],
 ["{{ text.rstrip('\\n') }}|", "end  \n", "end  |", "end|"],
 ["{{ text.strip('x') }}", "xax", "a", "xax"],
 ["{{ text == 1 }}", "1", "False", "true"],
 ["{{ 'yes' if [1] == [1] else 'no' }}", "", "yes", "no"],
 ["{{ 'yes' if other == none else 'no' }}", "", "no", "yes"],
 ["{{ -7 % 3 }}", "", "2", "-1"],
 ["{{ text | length }}", "\ud83d\ude00", "1", "2"],
 ["{{ text.strip() }}", " a ", "a", "a"]]
JSON
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";

const { version } = JSON.parse(readFileSync("node_modules/@huggingface/jinja/package.json"));
console.log("@huggingface/jinja", version);
for (const [template, text, right, expected] of JSON.parse(readFileSync("cases.json"))) {
  const found = new Template(template).render({ text });
  console.log(template, "of", JSON.stringify(text), "is", JSON.stringify(found), "instead of", JSON.stringify(right));
  assert.equal(found, expected, "the behavior has changed");
}
JS
node run.mjs
venv/bin/python - <<'PY'
import json
from importlib.metadata import version

import jinja2
import minijinja

print("Jinja2", version("Jinja2"), "minijinja", version("minijinja"))
with open("cases.json") as file:
    cases = json.load(file)
for template, text, right, _ in cases:
    assert jinja2.Environment().from_string(template).render(text=text) == right, template
    assert minijinja.Environment().render_str(template, text=text) == right, template
PY
