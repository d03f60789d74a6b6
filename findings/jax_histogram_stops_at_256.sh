#!/usr/bin/env bash
# JAX 0.10.1: jnp.histogram of bfloat16 weights has 256 in every bin, for the counts have the type of the data.
#
# Expected: counts are counts. np.histogram of the same bfloat16 array gives int64, and jnp.sum, mean and cumsum of
#   bfloat16 add up in float32. At worst the counts are rounded to the 8 bits of bfloat16.
# Observed: each element adds a 1 of the data's type to its bin, one after the other, and 256 + 1 is 256 in bfloat16. A
#   bin stops at 256, in float16 at 2,048 and in float32 at 16,777,216. For a normal matrix of GPT-2's size the eight
#   middle bins of ten are equal, and density=True turns them into a uniform distribution. The documentation says
#   nothing of the type.
# Why it matters: histograms of weights, gradients and activations are what people log to find dead or exploding layers.
#   Training in bfloat16 gives flat ones that look like data. Convert to float32 first; an embedding matrix with more
#   than 16 million elements near zero needs np.histogram.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)
weights = jax.random.normal(jax.random.key(0), (768, 768)).astype(jnp.bfloat16)
counts = {}
for name, array in {"bfloat16": weights, "float32": weights.astype(jnp.float32)}.items():
    counts[name] = [int(count) for count in jnp.histogram(array, bins=10, range=(-5, 5))[0]]
    print(f"normal weights [768, 768] in {name}: {counts[name]}, {sum(counts[name]):,} of {weights.size:,}")
counts["NumPy"] = np.histogram(np.asarray(weights), bins=10, range=(-5, 5))[0].tolist()
print("the bfloat16 array in NumPy:", counts["NumPy"])
assert sum(counts["float32"]) == sum(counts["NumPy"]) == weights.size
assert counts["bfloat16"][1:-1] == [256] * 8, "the behavior has changed"

for dtype, most in {jnp.bfloat16: 2**8, jnp.float16: 2**11, jnp.float32: 2**24}.items():
    ones = jnp.ones(2 * most, dtype)
    (found,), _ = jnp.histogram(ones, bins=1, range=(0, 2))
    print(f"{ones.size:,} ones in {dtype.__name__}: {int(found):,} counted")
    assert found.dtype == dtype and int(found) == most, "the behavior has changed"
PY
