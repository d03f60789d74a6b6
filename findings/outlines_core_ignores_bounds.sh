#!/usr/bin/env bash
# outlines_core 0.2.14: the regular expression made from a JSON Schema ignores `minimum`, `maximum`, `multipleOf` and
#   `uniqueItems` without a word, and refuses the number 1e5, which is valid JSON.
#
# Expected: output that matches the expression is valid by the schema, or the keyword is refused, as `not` is. All
#   numbers of JSON can be written.
# Observed: {"type": "integer", "minimum": 5, "maximum": 9} gives the expression of any integer, so -7 and 100 match. An
#   exponent needs a sign: "1e+5" matches a number, "1e5" does not. A pattern "a" has to match the whole string, while
#   JSON Schema searches for it.
# Why it matters: answers of a model that is held to a schema are not checked again. A rating from 1 to 5 can be 7, and
#   what the model writes as 1e5 is forced to become another number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q outlines_core==0.2.14
"$folder/venv/bin/python" - <<'PY'
import json
import re
from importlib.metadata import version

from outlines_core.json_schema import build_regex_from_schema

print("outlines_core", version("outlines_core"))


def accepted(schema: dict, texts: list[str]) -> list[str]:
    expression = build_regex_from_schema(json.dumps(schema))
    found = [text for text in texts if re.fullmatch(expression, text)]
    print(json.dumps(schema), "accepts", ", ".join(found))
    return found


CASES = [
    ({"type": "integer", "minimum": 5, "maximum": 9}, ["5", "-7", "100"], ["5", "-7", "100"]),
    ({"type": "integer", "exclusiveMinimum": 0}, ["1", "0"], ["1", "0"]),
    ({"type": "integer", "multipleOf": 5}, ["10", "7"], ["10", "7"]),
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, ["[1, 2]", "[1, 1]"], ["[1, 2]", "[1, 1]"]),
    ({"type": "number"}, ["1e+5", "1e5"], ["1e+5"]),
    ({"type": "string", "pattern": "a"}, ['"a"', '"bab"'], ['"a"']),
]
for schema, texts, expected in CASES:
    assert accepted(schema, texts) == expected, "the behavior has changed"
try:
    accepted({"not": {"type": "integer"}}, [])
except ValueError as error:
    print("not:", str(error).splitlines()[0])
PY
