#!/usr/bin/env bash
# numexpr 2.14.2: sum(x) of 20 million float32 ones is 16777216, of 100,000 int32 numbers it wraps, and max(x) skips
#   NaN.
#
# Expected: what NumPy gives for the same line: it adds float32 in pairs (20000000.0), and int32 as int64.
# Observed: the sum of an expression is one running sum of its type, float32 or int32. From 2^24 on adding 1 changes
#   nothing; the mean of 20 million losses of 1 is 0.84. 100,000 times 100,000 is 1410065408. max and min give the
#   largest of the other numbers where NumPy's give NaN. The documentation lists the reductions, not their precision.
#   float64 and int64 are right. No warning.
# Why it matters: numexpr is there for large arrays, where both happen: token counts of int32, log-probabilities,
#   sizes of documents in bytes (100,000 documents of 100 kB each). A diverged loss is hidden by max.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numexpr==2.14.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numexpr
import numpy as np

print("numexpr", numexpr.__version__, "numpy", np.__version__)
ones, sizes = np.ones(20_000_000, np.float32), np.full(100_000, 100_000, np.int32)
losses = np.array([2.5, np.nan, 2.0])
found = {
    "float32": (numexpr.evaluate("sum(ones)").item(), ones.sum().item()),
    "float32 of an expression": (numexpr.evaluate("sum(ones * 2 - 1)").item(), (ones * 2 - 1).sum().item()),
    "int32": (numexpr.evaluate("sum(sizes)").item(), sizes.sum().item()),
    "max": (numexpr.evaluate("max(losses)").item(), losses.max().item()),
    "min": (numexpr.evaluate("min(losses)").item(), losses.min().item()),
}
for name, (value, right) in found.items():
    print(f"{name}: {value}, NumPy {right}")
doubles, longs = ones[:1000].astype(np.float64), sizes.astype(np.int64)
assert numexpr.evaluate("sum(doubles)") == 1000 and numexpr.evaluate("sum(longs)") == 10**10
assert [right for _, right in found.values()][:3] == [2e7, 2e7, 10**10] and np.isnan(found["max"][1])
assert found["float32"][0] == found["float32 of an expression"][0] == 2**24, "the behavior has changed"
assert found["int32"][0] == 10**10 % 2**32, "the behavior has changed"
assert (found["max"][0], found["min"][0]) == (2.5, 2.0), "the behavior has changed"
PY
