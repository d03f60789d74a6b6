#!/usr/bin/env bash
# NumPy 2.4.6: of int8 values between -100 and 100, np.quantile gives 128 as the median and -114 as the lower quartile.
#
# Expected: a quantile lies between the smallest and the largest value, and is monotone. "If the input contains integers
#   [...] the output data-type is float64", says the documentation, so there is room for it. np.median and jnp.quantile
#   give 0.
# Observed: the difference of the two neighbors is taken in the type of the input, where 100 - -100 is -56, and only
#   then becomes a float. np.percentile, nanquantile and the interpolating methods (hazen, weibull, median_unbiased) do
#   the same, int16 and int32 as well, with a warning for a single q only, and none for a list of them or along an axis.
#   Unsigned types are right. numpy/numpy#29315 and the open #30376 are about it.
# Why it matters: binary layers of one scale, and int8 activations with a few large values, have neighbors that far
#   apart. Thresholds for clipping from percentiles lie outside of the type's own range, and the quartiles are
#   exchanged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import warnings

import numpy as np

print("numpy", np.__version__)
POINTS = [0, 0.25, 0.5, 0.75, 1]
binary = np.repeat(np.array([-100, 100], np.int8), 2)
cases = {"int8": binary[1:3], "int16": np.array([-30_000, 30_000], np.int16), "uint8": np.array([0, 200], np.uint8)}
with warnings.catch_warnings():
    warnings.simplefilter("error")
    for name, array in cases.items():
        found, right = np.quantile(array, POINTS).tolist(), np.quantile(array.astype(np.float64), POINTS).tolist()
        print(f"{name} {array.tolist()}: quantiles {found}, of floats {right}, median {float(np.median(array))}")
        assert (found == right) == (name == "uint8"), "the behavior has changed"
        for function in (np.nanquantile, lambda array, q: np.percentile(array, np.multiply(q, 100))):
            assert function(array, POINTS).tolist() == found
    assert np.quantile(cases["int8"], POINTS).tolist() == [-100, -114, 128, 114, 100], "the behavior has changed"
    weights = np.random.default_rng(0).choice(np.array([-100, 100], np.int8), (768, 4))
    medians = np.quantile(weights, 0.5, axis=1)
    print("medians of rows of four:", dict(zip(*map(np.ndarray.tolist, np.unique(medians, return_counts=True)))))
    assert set(medians.tolist()) == {-100, 100, 128}, "the behavior has changed"
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    single = float(np.quantile(cases["int8"], 0.5))
print(f"a single q: {single}, with {[str(each.message) for each in told]}")
assert single == 128 and len(told) == 1, "the behavior has changed"
PY
