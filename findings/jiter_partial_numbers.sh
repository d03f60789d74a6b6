#!/usr/bin/env bash
# jiter 0.19.0: with `partial_mode`, a number that is cut off is a whole number: {"amount": 12 of a text that goes on
#   with 1234 is 12. A cut-off string is left out, and so is the number a byte later, at "12.".
#
# Expected: the last value of a cut-off text is left out unless it is known to be whole, as for strings, or it is
#   marked. `partial_mode="trailing-strings"` is there for those who want unfinished strings.
# Observed: at each length of the text that ends within 1234.5e3 the value is 1, 12, 123, 1234, none, 1234.5, none,
#   and 1234500.0 at last.
# Why it matters: calls of tools are shown, or begun, while a model's answer still arrives. pydantic's `from_json` and
#   clients of streaming APIs parse with this library, so an amount, a step or an id is another one for a moment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jiter==0.19.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import jiter

print("jiter", version("jiter"))
TEXT = b'{"amount": 1234.5e3}'
begin, end = TEXT.index(b"1"), TEXT.index(b"}")
found = {}
for stop in range(begin + 1, end + 1):
    for mode in (True, "trailing-strings"):
        value = jiter.from_json(TEXT[:stop], partial_mode=mode).get("amount")
        found.setdefault(TEXT[begin:stop].decode(), set()).add(value)
for text, values in found.items():
    print(f"{text}: {values}")
assert found == {
    "1": {1}, "12": {12}, "123": {123}, "1234": {1234}, "1234.": {None}, "1234.5": {1234.5}, "1234.5e": {None},
    "1234.5e3": {1234500.0},
}, "the behavior has changed"  # fmt: skip
assert jiter.from_json(b'{"name": "An', partial_mode=True) == {}
assert jiter.from_json(b"[1, 2", partial_mode=True) == [1, 2], "the behavior has changed"
PY
