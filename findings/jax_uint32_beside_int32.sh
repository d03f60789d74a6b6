#!/usr/bin/env bash
# JAX 0.10.1: jnp.uint32(3,000,000,000) > jnp.int32(5) is False: beside an int32, large uint32 values are negative.
#
# Expected: a comparison of two integers is right, or an error; NumPy compares these two types as int64. Random bits
#   and hashes are uint32 in JAX, and jnp.arange, argmax and token ids are int32.
# Observed: the common type of both is int64, which JAX, as it does everywhere unless jax_enable_x64 is set, takes for
#   int32, so 4,294,967,295 becomes -1 before the operation. Comparisons, %, //, maximum, where and concatenate do so,
#   and jnp.digitize and searchsorted sort half of all hashes before the first boundary. A warning is given for none
#   of them; a requested int64 has one. With a Python number, `> 5`, it is right.
# Why it matters: a share of documents is held out by `hashes < threshold` or `hashes % parts == index`, for
#   independence of their order. With thresholds in an int32 array half of the documents go to the first part, and
#   bits % array has other remainders than in NumPy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import warnings

import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)
hashes = jax.random.bits(jax.random.key(0), (100_000,))
assert hashes.dtype == jnp.uint32
bounds = jnp.array([1_000, 1_000_000, 2_000_000_000])
parts = jnp.int32(7)
assert bounds.dtype == parts.dtype == jnp.int32
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    large = jnp.uint32(3_000_000_000)
    is_greater, greatest = bool(large > jnp.int32(5)), int(jnp.maximum(large, jnp.int32(5)))
    bins = np.bincount(jnp.digitize(hashes, bounds), minlength=4)
    remainders = np.asarray(hashes % parts)
    joined = int(jnp.concatenate([large[None], jnp.arange(1)])[0])
of_numpy = np.bincount(np.digitize(np.asarray(hashes), np.asarray(bounds)), minlength=4)
right = np.asarray(hashes) % np.asarray(parts)
equal = float((remainders == right).mean())
print(f"3,000,000,000 > 5: {is_greater}; maximum {greatest}; after concatenate {joined:,}; {len(caught)} warnings")
print(f"bins of 100,000 hashes: {bins.tolist()}, NumPy {of_numpy.tolist()}; equal remainders by 7: {equal:.0%}")
assert bool(large > 5) and np.uint32(3_000_000_000) > np.int32(5)
assert np.array_equal(np.asarray(hashes % 7), right)
assert not is_greater and greatest == 5 and joined < 0 and not caught, "the behavior has changed"
assert of_numpy[0] < 10 and bins[0] > 45_000 and equal < 0.6, "the behavior has changed"
PY
