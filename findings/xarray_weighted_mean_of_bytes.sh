#!/usr/bin/env bash
# xarray 2026.9.0: the weighted mean of 200 and 100 as uint8, with a mask of two True as the weights, is 22.
#
# Expected: 150, as mean() gives for the same array, and as the weighted mean is with weights of int64 or float. A mean
#   lies between the smallest and the largest value; the documentation of weighted has the formula sum(w * x) / sum(w).
# Observed: the products are summed in the type of values and weights together, so with weights of uint8, int8 or bool
#   the sum wraps: 300 is 44, and the mean 22. sum and std of the weighted array are wrong alike, and so are the sums of
#   more than 255 weights of uint8. sum() and mean() without weights take wide integers. No warning.
# Why it matters: scores, lengths of tokens in bytes and ratings are kept as uint8, and a mask of the valid tokens is
#   the usual weight. The result is a plausible number of the same size, since what wraps is divided afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q xarray==2026.9.0 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import xarray as xr

print("xarray", xr.__version__, "numpy", np.__version__)
values = np.array([200, 100], np.uint8)
array = xr.DataArray(values, dims="token")
assert float(array.mean()) == 150 and float(array.sum()) == 300
for dtype in ("bool", "uint8", "int64", "float32"):
    weighted = array.weighted(xr.DataArray(np.ones(2, dtype), dims="token"))
    mean, total, spread = (float(getattr(weighted, name)()) for name in ("mean", "sum", "std"))
    print(f"weights of {dtype}: mean {mean}, sum {total}, std {spread:.1f}")
    right = mean == 150 and total == 300 and np.isclose(spread, 50)
    wrong = mean == 22 and total == 44 and spread > 100
    assert (wrong if dtype in ("bool", "uint8") else right), "the behavior has changed"
many = xr.DataArray(np.resize(values, 1_000), dims="token")
mean = float(many.weighted(xr.DataArray(np.ones(1_000, bool), dims="token")).mean())
print(f"of 1,000 such values: {mean}")
assert mean < 1, "the behavior has changed"
PY
