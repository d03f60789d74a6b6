#!/usr/bin/env bash
# srsly 2.5.6: write_jsonl writes a learning rate of 1.2345678e-7 as 0.0000001235, and a loss of 4e-11 as 0.0.
#
# Expected: a float comes back as it was, as from Python's json, ujson 5, orjson and msgspec, which write the shortest
#   number that is read as the same float.
# Observed: srsly carries an old copy of ujson, which writes ten decimals, however small a number is: 1/3 keeps ten
#   digits, 1e-10 one, and 4e-11 none. What is read differs too: 0.1234567890123456789 is off in the 16th digit. The
#   README names ujson as what the package bundles, and no limit of it; msgpack, also in srsly, keeps floats.
# Why it matters: spaCy and Prodigy keep configurations, metrics and scored texts in files of srsly. Probabilities of
#   rare tokens become 0 and their logarithms -inf, and a learning rate at the end of a schedule is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q srsly==2.5.6 ujson==5.11.0
"$folder/venv/bin/python" - "$folder/file.jsonl" <<'PY'
import json
import sys
from importlib.metadata import version

import srsly
import ujson

PATH = sys.argv[1]
print("srsly", version("srsly"), "ujson", version("ujson"))
EXPECTED = {
    1.2345678e-7: 1.235e-07,
    6e-5: 6e-5,
    1 / 3: 0.3333333333,
    1e-10: 1e-10,
    4e-11: 0.0,
    2.718281828459045: 2.7182818285,
    3.0: 3.0,
}
srsly.write_jsonl(PATH, [{"value": value} for value in EXPECTED])
with open(PATH) as file:
    lines = file.read().splitlines()
for (value, expected), line in zip(EXPECTED.items(), lines, strict=True):
    found = json.loads(line)["value"]
    print(f"{value!r} is written as {line}")
    assert abs(found - expected) <= 1e-15, "the behavior has changed"
    assert json.loads(json.dumps(value)) == ujson.loads(ujson.dumps(value)) == value
    assert srsly.msgpack_loads(srsly.msgpack_dumps(value)) == value
text = "0.1234567890123456789"
print(f"{text} is read as {srsly.json_loads(text)!r} instead of {json.loads(text)!r}")
assert srsly.json_loads(text) != json.loads(text) == ujson.loads(text), "the behavior has changed"
PY
