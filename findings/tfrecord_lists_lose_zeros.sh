#!/usr/bin/env bash
# tfrecord 1.14.6: a list of two byte strings comes back without the zeros at their ends, and one string alone is whole.
#
# Expected: tfrecord_loader returns the bytes that TFRecordWriter was given, b"\x05\x00" as b"\x05\x00". A file has
#   them: protobuf's own reader finds them.
# Observed: a feature with one byte string is given out as it is. One with several becomes a NumPy array of type "S",
#   for which zeros at the end are padding. So tokens as little-endian uint16 lose the upper byte of the last one
#   wherever it is below 256 (np.frombuffer then raises, or does not, by the type), uint32 tokens lose more, and a value
#   of zeros alone is empty. No error, with a description of the features and without.
# Why it matters: image and text features of several parts are lists of bytes; for GPT-2 documents or turns of a chat,
#   each its tokens' tobytes(). A document that ends with "!" (token 0) is shorter by one to three bytes after the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tfrecord==1.14.6 protobuf==7.36.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder/turns.tfrecord" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import tfrecord
from tfrecord import example_pb2

print("tfrecord", version("tfrecord"), "numpy", np.__version__)
FILE = sys.argv[1]


def turned(values: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The byte strings of a record: as the loader gives them, and as they are in the file."""
    writer = tfrecord.TFRecordWriter(FILE)
    writer.write({"turns": (values, "byte")})
    writer.close()
    with open(FILE, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        example = example_pb2.Example.FromString(file.read(4 + length)[4:])
    (record,) = tfrecord.tfrecord_loader(FILE, None, {"turns": "byte"})
    (same,) = tfrecord.tfrecord_loader(FILE, None)
    assert np.array_equal(record["turns"], same["turns"])
    found = [record["turns"]] if isinstance(record["turns"], bytes) else record["turns"].tolist()
    return found, list(example.features.feature["turns"].bytes_list.value)


turns = [np.array(ids, "<u2").tobytes() for ids in ([15496, 0], [50256], [5])]
cases = {
    "one turn": turns[2:], "three turns": turns, "zeros": [bytes(4), b"a"],
    "uint32": [np.array([0], "<u4").tobytes(), np.array([5], "<u4").tobytes()],
}
results = {}
for name, values in cases.items():
    results[name], stored = turned(values)
    assert stored == values
    print(f"{name}: written {values}, loaded {results[name]}")
assert results["one turn"] == turns[2:]
for name in ("three turns", "zeros", "uint32"):
    assert results[name] == [value.rstrip(b"\0") for value in cases[name]] != cases[name], "the behavior has changed"
PY
