#!/usr/bin/env bash
# datasets 5.2.0: with_format("numpy"): one None among integers makes the batch float32, and 16,777,217 is 16,777,216.
#
# Expected: a column of int64 stays int64, or becomes an array with room for it; to_pandas takes float64 where a value
#   is missing, which is exact up to 2^53.
# Observed: in a batch with a None the numpy and the torch formats give float32, with NaN for the None. All integers
#   above 16,777,216 are rounded, also those of rows that have a value. The same rows in a batch without a None, and
#   row by row, are int64 and exact. A map with batched=True over such a dataset writes the rounded numbers to disk.
# Why it matters: offsets into a token file, identifiers of documents and hashes have more than 24 bits, and one
#   document in a thousand without one is normal. Which rows are rounded depends on the size of the batch. Lookups with
#   the rounded offsets find the text of a neighbor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 numpy==2.4.6
HF_HOME="$folder/home" "$folder/venv/bin/python" - <<'PY'
import datasets
import numpy as np

print("datasets", datasets.__version__, "numpy", np.__version__)
datasets.disable_progress_bars()
offsets = [16_777_217, 16_777_219, 9_035_582_199, None]
rows = datasets.Dataset.from_dict({"offset": offsets})
arrays = rows.with_format("numpy")
found = arrays[:]["offset"]
print("all four rows:", found.dtype, [float(value) for value in found])
print("the first three:", arrays[:3]["offset"].dtype, arrays[:3]["offset"].tolist())
frame = rows.to_pandas()["offset"]
print("to_pandas:", frame.dtype, frame.tolist())
assert rows.features["offset"].dtype == "int64" and rows[:]["offset"] == offsets
assert arrays[:3]["offset"].dtype == np.int64 and arrays[:3]["offset"].tolist() == offsets[:3]
assert [arrays[row]["offset"] for row in range(3)] == frame.tolist()[:3] == offsets[:3]
rounded = [float(np.float32(offset)) for offset in offsets[:3]]
assert rounded[0] == 16_777_216 and rounded != offsets[:3]
assert found.dtype == np.float32 and found[:3].tolist() == rounded, "the behavior has changed"

copied = arrays.map(lambda batch: {"copy": batch["offset"]}, batched=True).with_format(None)
print("after map:", copied["copy"][:])
assert copied["copy"][:3] == rounded, "the behavior has changed"
PY
