#!/usr/bin/env bash
# NumPy 2.4.6 with ml_dtypes 0.6.0 (JAX's bfloat16): np.nan_to_num leaves NaN, np.nanmean is NaN, np.sort is not sorted.
#
# Expected: NumPy knows NaN in bfloat16, as np.isnan finds it: nan_to_num replaces it, nanmean and nansum leave it out,
#   sort puts it last, as for float16 and as jnp does.
# Observed: these functions ask whether the type is a subclass of np.inexact. ml_dtypes' are not, so they are taken for
#   types without NaN, and the array comes back as it was. np.sort leaves NaN in the middle, so np.median and
#   searchsorted give wrong finite numbers. isnan, nanmax, and array_equal with equal_nan=True are right.
# Why it matters: nan_to_num on gradients or weights in bfloat16 is a guard that does nothing, and a median of losses is
#   a plausible number with a NaN among them. The same lines in jax.numpy work. Cast to float32 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
found = {}
for dtype in (np.float16, ml_dtypes.bfloat16):
    values = np.array([4, np.nan, 3, 0, 2], dtype)
    assert np.isnan(values).sum() == 1 and np.nanmax(values) == 4
    found[dtype.__name__] = {
        "nan_to_num": np.nan_to_num(values).tolist(), "nanmean": float(np.nanmean(values)),
        "nansum": float(np.nansum(values)), "sort": np.sort(values).tolist(), "median": float(np.median(values)),
    }
    print(dtype.__name__, values.tolist(), found[dtype.__name__])
nan = np.nan
expected = {
    "float16": {"nan_to_num": [4, 0, 3, 0, 2], "nanmean": 2.25, "nansum": 9, "sort": [0, 2, 3, 4, nan], "median": nan},
    "bfloat16": {"nan_to_num": [4, nan, 3, 0, 2], "nanmean": nan, "nansum": nan, "sort": [4, nan, 0, 2, 3], "median": 0},
}
for name, results in expected.items():
    for function, result in results.items():
        assert np.array_equal(found[name][function], result, equal_nan=True), f"the behavior has changed: {function}"
PY
