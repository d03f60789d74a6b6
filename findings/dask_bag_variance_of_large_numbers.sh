#!/usr/bin/env bash
# dask 2026.8.0: the variance of a bag of 1e9, 1e9 + 1 and 1e9 + 2 is 128 or another such number; it is 0.667.
#
# Expected: var and std of a bag are those of NumPy, and of dask.array of the same numbers, which is right. The
#   documentation of Bag.var says "Variance".
# Observed: a bag adds up the squares, and takes the square of the mean from the mean of the squares. Of large numbers
#   close to each other no right digit is left, and std is the root of that. For bytes of NumPy the squares wrap, so
#   that the variance of [200, 100, 250] as uint8 is negative, and std raises "math domain error".
# Why it matters: bags are Dask's way through JSON Lines, and times in seconds (1.8e9), offsets in a corpus and token
#   counts are such numbers. Their spread decides about batch lengths, outliers and the error bars of a report.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q dask==2026.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import dask
import dask.array
import dask.bag
import numpy as np

print("dask", dask.__version__, "numpy", np.__version__)
dask.config.set(scheduler="synchronous")
cases = {
    "1e9, 1e9 + 1, 1e9 + 2": [1e9, 1e9 + 1, 1e9 + 2] * 10,
    "times of a minute": [1.8e9 + second / 4 for second in range(240)],
    "small numbers": [1.0, 2.0, 3.0] * 10,
}
for name, values in cases.items():
    bag = dask.bag.from_sequence(values, npartitions=4)
    found, right = bag.var().compute(), np.var(values)
    array = dask.array.from_array(np.array(values), chunks=7).var().compute()
    print(f"{name}: variance of the bag {found:.4g}, of dask.array {array:.4g}, of NumPy {right:.4g}")
    assert np.isclose(array, right)
    assert np.isclose(found, right) == (name == "small numbers"), "the behavior has changed"
bytes_ = dask.bag.from_sequence(list(np.array([200, 100, 250], np.uint8)))
with np.errstate(over="ignore"):
    found = bytes_.var().compute()
print("variance of 200, 100 and 250 as uint8:", found)
assert found < 0, "the behavior has changed"
PY
