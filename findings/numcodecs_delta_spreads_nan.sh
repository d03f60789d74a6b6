#!/usr/bin/env bash
# numcodecs 0.16.6: the Delta filter on floats turns all values after one NaN into NaN, and 0.1 after 1e8 into 0.0.
#
# Expected: "Codec to encode data as the difference between adjacent values" gives back what it was given, as for
#   integers, where it is exact, also where they wrap. dtype may be "f4" or "f8", and filters that lose digits, such as
#   Quantize and BitRound, say so in their documentation; that of Delta does not.
# Observed: decoding is a running sum. After one NaN or inf every later value is NaN. After a large value the next ones
#   are rounded to its precision, and stay so: the running sum keeps the error. Integers come back as they were.
# Why it matters: Delta makes series of steps, losses and times small in Zarr. One NaN of a diverged step, or the mask
#   of a missing value, takes the rest of the chunk with it, at the next reading; the array in memory was right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/series.zarr" <<'PY'
import sys

import numcodecs
import numpy as np
import zarr

print("numcodecs", numcodecs.__version__, "zarr", zarr.__version__)
series = {
    "one NaN": np.array([2.5, 2.4, np.nan, 2.3, 2.2], np.float32),
    "one inf": np.array([2.5, 2.4, np.inf, 2.3, 2.2], np.float32),
    "one spike": np.array([0.5, 1e8, 0.1, 0.2, 0.3], np.float32),
}
for name, values in series.items():
    codec = numcodecs.Delta(values.dtype)
    decoded = codec.decode(codec.encode(values))
    array = zarr.create_array(
        store=sys.argv[1], shape=5, dtype="f4", filters=[codec], zarr_format=2, overwrite=True, fill_value=0
    )
    array[:] = values
    read = zarr.open_array(sys.argv[1])[:]
    print(f"{name}: {values.tolist()} is {read.tolist()}")
    assert np.array_equal(read, decoded, equal_nan=True)
    if name == "one spike":
        assert read[2] == 0 and abs(read - values)[3:].min() > 0.05, "the behavior has changed"
    else:
        assert np.isnan(read[3:]).all() and np.isfinite(values[3:]).all(), "the behavior has changed"
integers = np.array([0, 255, 3, 200], np.uint8)
codec = numcodecs.Delta("u1")
assert np.array_equal(codec.decode(codec.encode(integers)), integers)
PY
