#!/usr/bin/env bash
# orjson 3.13.0: loads("18446744073709551616") is the float 1.8446744073709552e+19; a saved random state loses 70 bits.
#
# Expected: json, ujson and msgspec give the integer; pysimdjson raises an error, as orjson's own dumps does for it.
#   orjson calls itself strict, and refuses 1e400 and NaN, which json reads.
# Observed: every integer outside -2^63 to 2^64 - 1 is silently read as the nearest float. The documentation names the
#   range that is supported, and not what happens outside it.
# Why it matters: the state of NumPy's default generator, two integers of 128 bits, is often kept as JSON in a
#   checkpoint; hashes of 128 bits and identifiers are too. json writes them, and a faster reader rounds them.
#   Identifiers of several documents become one, and dumps of the result writes 1.8e19, so the file is lossy from then
#   on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q orjson==3.13.0 msgspec==0.23.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import json
from importlib.metadata import version

import msgspec
import numpy as np
import orjson

print({name: version(name) for name in ("orjson", "msgspec", "numpy")})
for number in (2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**127 + 1):
    text = json.dumps(number)
    found = orjson.loads(text)
    print(f"{text}: orjson {found!r}, json {json.loads(text)!r}, msgspec {msgspec.json.decode(text)!r}")
    assert json.loads(text) == msgspec.json.decode(text) == number
    is_inside = -(2**63) <= number < 2**64
    assert type(found) is (int if is_inside else float), "the behavior has changed"

identifiers = [json.dumps({"id": 2**100 + document}) for document in range(1_000)]
print("1,000 identifiers of 101 bits:", len({orjson.loads(line)["id"] for line in identifiers}), "after loads")
assert len({orjson.loads(line)["id"] for line in identifiers}) == 1, "the behavior has changed"

state = json.dumps(np.random.default_rng(0).bit_generator.state)
for name, loads in {"json": json.loads, "orjson": orjson.loads}.items():
    print(f"state of a NumPy generator by {name}: {loads(state)['state']['state']!r}")
assert isinstance(orjson.loads(state)["state"]["state"], float), "the behavior has changed"
try:
    orjson.dumps(2**64)
except TypeError as error:
    print("orjson.dumps:", error)
else:
    raise AssertionError("the behavior has changed")
PY
