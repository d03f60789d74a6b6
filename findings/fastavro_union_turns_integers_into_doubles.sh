#!/usr/bin/env bash
# fastavro 1.13.1: the union ["null", "double", "long"] takes the integer 9007199254740993 for 9007199254740992.0.
#
# Expected: an integer goes to the branch of integers, wherever it stands: a value has the branch of its type. Avro's
#   specification gives the order of a union no such meaning, and Java's writer takes the branch of the runtime type.
# Observed: the first branch that an integer could be converted to is taken, so "double" or "float" before "long" takes
#   all integers: 1 is read as 1.0, and from 2**53, or 2**24 for "float", on they are rounded, without a warning. Arrays
#   and maps in a union are alike. The other way round nothing is lost: 0.5 is never written as a long, and 0.1 goes to
#   "double" even if "float" stands before it. The documentation of unions speaks of records that fit two branches only.
# Why it matters: generic values, such as metrics, features and settings of records, have such unions, and ids, hashes
#   and token counts among them are large integers. Other readers get another number, with no sign that it was rounded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q fastavro==1.13.1
"$folder/venv/bin/python" - <<'PY'
import io

import fastavro

print("fastavro", fastavro.__version__)


def trip(union: list, value: object) -> object:
    """The value of a record's field after writing a file and reading it."""
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": [{"name": "value", "type": union}]})
    file = io.BytesIO()
    fastavro.writer(file, schema, [{"value": value}], validator=True)
    file.seek(0)
    (record,) = fastavro.reader(file)
    return record["value"]


LARGE = 2**53 + 1
cases = [
    (["null", "double", "long"], LARGE, float(LARGE)),
    (["null", "double", "long"], 1, 1.0),
    (["null", "float", "long"], 2**24 + 1, float(2**24)),
    (["null", {"type": "array", "items": "double"}, {"type": "array", "items": "long"}], [LARGE], [float(LARGE)]),
    (["null", {"type": "map", "values": "double"}, {"type": "map", "values": "long"}], {"a": 1}, {"a": 1.0}),
    (["null", "long", "double"], LARGE, LARGE),
    (["null", "long", "double"], 0.5, 0.5),
    (["null", "float", "double"], 0.1, 0.1),
]
for union, value, expected in cases:
    found = trip(union, value)
    print(f"{union}: {value!r} is read as {found!r}")
    assert repr(found) == repr(expected), "the behavior has changed"
PY
