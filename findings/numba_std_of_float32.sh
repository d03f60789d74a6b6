#!/usr/bin/env bash
# numba 0.68.1: np.std of 3 million float32 values is 2.4 in a compiled function and 1.0 in NumPy; 1.0 is right.
#
# Expected: numba supports np.mean, np.var and np.std with the results of NumPy, up to the last digits, as with
#   float64.
# Observed: numba adds up float32 values one by one in one float32 number. The mean of 20 million times 11.0 is 11.42,
#   larger than every value, and the mean of 3 million draws of N(100, 1) is off by 2, so np.std, which subtracts it,
#   gives 2.4. np.nanmean is right. Of ones nothing is added after 16,777,216. The type of the result is float64, and
#   hides it. (numba/numba#2855 and #3702, open since 2018, ask for a more accurate sum and mean.)
# Why it matters: statistics over the activations, losses or document scores of a GPT-2 run are what people compile
#   with numba. Two times the standard deviation is a believable number, and tests on small arrays pass. Convert to
#   float64 or call NumPy outside.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numba
import numpy as np

print("numba", numba.__version__, "numpy", np.__version__)


def statistics(values):
    """Three numbers of one array."""
    return np.mean(values), np.nanmean(values), np.std(values)


compiled = numba.njit(statistics)
normal = np.random.default_rng(0).normal(100, 1, 3_000_000)
found = {}
for name, values in {"N(100, 1)": normal, "11.0": np.full(20_000_000, 11.0)}.items():
    for dtype in (np.float32, np.float64):
        array = values.astype(dtype)
        found[name, dtype] = compiled(array)
        expected = statistics(array)
        for who, numbers in {"numba": found[name, dtype], "NumPy": expected}.items():
            mean, nan_mean, std = map(float, numbers)
            print(f"{array.size:,} of {name}, {dtype.__name__}, {who}: mean {mean:.4f}, {nan_mean:.4f}, std {std:.4f}")
        assert np.allclose(expected, (values.mean(), values.mean(), values.std()), rtol=1e-3)
        assert dtype == np.float32 or np.allclose(found[name, dtype], expected)
assert found["N(100, 1)", np.float32][2] > 2, "the behavior has changed"
assert found["11.0", np.float32][0] > 11.4, "the behavior has changed"
PY
