#!/usr/bin/env bash
# bottleneck 1.6.0: move_sum of [1e16, 1, 2, 3, 4] with windows of 2 ends with 2, 4, 6; the right sums are 3, 5, 7.
#
# Expected: a window of two values gives the sum of these two: the documentation says "Moving window sum along the
#   specified axis". pandas, polars and xarray without bottleneck give 3, 5, 7.
# Observed: the sum is kept, with the new value added and the old one taken away, so what a large value rounded off is
#   missing in every later window, however far behind it is. After one inf, move_sum, move_mean, move_std and move_var
#   are NaN to the end of the array. NaN is counted apart and leaves nothing. move_max, move_min and move_median are
#   right. The documentation has no word on it.
# Why it matters: smoothed losses and norms of gradients are moving means, and one spike of 1e9 or inf is what they are
#   looked at for. In float32 a spike of 1e8 makes all later means wrong in the first digit; after inf no plot shows the
#   recovery.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q bottleneck==1.6.0 polars==2.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import bottleneck
import numpy as np
import polars as pl

print("bottleneck", bottleneck.__version__, "polars", pl.__version__, "numpy", np.__version__)


def right(values: np.ndarray) -> np.ndarray:
    """The mean of each value and the one before."""
    return np.concatenate([[np.nan], (values[1:] + values[:-1]) / 2])


losses = np.array([2.5, 2.25, 2.0, 1.75, 1.5, 1.25] * 5)
SPIKES = [("1e16", "float64"), ("1e8", "float32"), ("inf", "float64"), ("NaN", "float64")]
for name, dtype in SPIKES:
    values = losses.astype(dtype)
    values[1] = float(name)
    found, expected = bottleneck.move_mean(values, 2), right(values)
    other = np.array(pl.Series(values).rolling_mean(2).to_list()[3:], float)
    print(f"after {name} in {dtype}: {found[3:8].tolist()}, right {expected[3:8].tolist()}")
    assert np.allclose(other, expected[3:])
    if name == "NaN":
        assert np.allclose(found[3:], expected[3:])
    elif name == "inf":
        assert np.isnan(found[3:]).all(), "the behavior has changed"
    else:
        assert np.abs(found[3:] - expected[3:]).min() > 0.1, "the behavior has changed"
    assert np.array_equal(bottleneck.move_max(values, 2)[3:], np.maximum(values[3:], values[2:-1]))
sums = bottleneck.move_sum(np.array([1e16, 1, 2, 3, 4]), 2)[2:].tolist()
print("move_sum of [1e16, 1, 2, 3, 4]:", sums)
assert sums == [2, 4, 6], "the behavior has changed"
PY
