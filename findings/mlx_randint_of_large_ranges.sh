#!/usr/bin/env bash
# mlx 0.32.4: random.randint(0, 100,000,000) is even in 92% of all draws, and randint(2**40, 2**40 + 1000) is always
#   2**40.
#
# Expected: all integers from low to high - 1 with equal probability, as the documentation says; dtype may be int64.
# Observed: the draws are made as float32 numbers, which have 24 bits. Up to 2**24 all is right. Of 2**31 only every
#   128th number occurs among the larger ones, and 99.7% are even; randint(1,000,000,000, 1,000,000,100) gives 3
#   different numbers of 100. With dtype=int64, numbers below 2**40 are multiples of 256 or more. No error and no
#   warning. NumPy and JAX draw all numbers alike.
# Why it matters: starts of windows in a corpus of billions of tokens are drawn so. A corpus of records with an even
#   length is then cut at the same places of its records again and again, and most tokens never begin a window. Seeds,
#   ids and offsets that are drawn so collide.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q "mlx[cpu]==0.32.4" numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
mx.random.seed(0)
print("mlx", version("mlx"))
COUNT = 100_000


def draws(low: int, high: int, dtype: mx.Dtype) -> np.ndarray:
    """Numbers from low to high - 1."""
    return np.array(mx.random.randint(low, high, (COUNT,), dtype=dtype))


even = {}
for high in (2**24, 10**8, 2**31 - 1):
    found, right = draws(0, high, mx.int32), np.random.default_rng(0).integers(0, high, COUNT)
    even[high] = (found % 2 == 0).mean()
    print(f"below {high}: {even[high]:.1%} even; NumPy: {(right % 2 == 0).mean():.1%}")
near = draws(10**9, 10**9 + 100, mx.int32)
long = draws(0, 2**40, mx.int64)
far = draws(2**40, 2**40 + 1000, mx.int64)
print(f"of 100 numbers from 1e9 on: {len(np.unique(near))}; of 1,000 from 2**40 on: {len(np.unique(far))}")
print(f"common divisor of the numbers below 2**40: {np.gcd.reduce(long)}")
assert abs(even[2**24] - 0.5) < 0.02
assert 0.88 < even[10**8] < 0.96 and even[2**31 - 1] > 0.99, "the behavior has changed"
assert len(np.unique(near)) < 10 and np.gcd.reduce(long) >= 256 and len(np.unique(far)) == 1, "the behavior has changed"
PY
