#!/usr/bin/env bash
# SciPy 1.17.1: ttest_rel of answers as uint8: A is better than B with p = 1e-66, and B better than A with p = 2e-53.
#
# Expected: the paired t-test of two arrays of 0 and 1 does not depend on their type: -2.2 and p = 0.03 for int8, int64
#   and floats here. For bool, whose difference NumPy does not define, there is a TypeError.
# Observed: the differences are taken in the type of the input, where 0 - 1 is 255 (65,535 in uint16). The statistic is
#   large and positive whichever array comes first, and for two almost equal models as well. confidence_interval() gives
#   a mean difference of 59 to 72 for numbers of 0 and 1. No warning. Of the tests for two samples only ttest_rel does
#   so: wilcoxon, ttest_ind, pearsonr and the others convert. tmean of uint8 sums in uint8 (a mean of 0.9 for 137.5),
#   and kstat gives a negative variance. The documentation says "array_like".
# Why it matters: per-question results of two checkpoints on one benchmark are the case for a paired test, and uint8 is
#   how flags are stored (Parquet, HDF5, jnp.uint8). Each comparison is significant in favor of the first argument.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W error - <<'PY'
import numpy as np
import scipy
from scipy import stats

print("scipy", scipy.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
one, other = rng.random((2, 1000)) < 0.6
print(f"right answers: {one.mean():.3f} and {other.mean():.3f}")
results = {}
for dtype in ("float64", "int64", "int8", "uint8", "uint16", "uint64"):
    a, b = one.astype(dtype), other.astype(dtype)
    first, second = stats.ttest_rel(a, b), stats.ttest_rel(b, a)
    results[dtype] = float(first.statistic), float(second.statistic)
    low, high = first.confidence_interval()
    print(f"{dtype}: t = {first.statistic:.2f}, p = {first.pvalue:.1g}; exchanged t = {second.statistic:.2f}, p = "
          f"{second.pvalue:.1g}; difference {low:.2g} to {high:.2g}")
for dtype, (first, second) in results.items():
    if dtype.startswith("u"):
        assert first > 15 and second > 15, "the behavior has changed"
    else:
        assert np.isclose(first, results["float64"][0]) and np.isclose(second, -first)
try:
    stats.ttest_rel(one, other)
except TypeError as error:
    print("bool:", error)
else:
    raise SystemExit("the behavior has changed")
for name in ("ttest_ind", "wilcoxon", "pearsonr", "mannwhitneyu"):
    values = [getattr(stats, name)(one.astype(dtype), other.astype(dtype)).pvalue for dtype in ("uint8", "float64")]
    assert np.isclose(*values), name
array = rng.integers(1, 255, 60).astype(np.uint8)
found = {name: [float(getattr(stats, name)(x)) for x in (array, array.astype(float))] for name in ("tmean", "kstat")}
print("of uint8 and of the same as floats:", found)
assert found["tmean"][0] < 5 < 100 < found["tmean"][1] and found["kstat"][0] < 0, "the behavior has changed"
PY
