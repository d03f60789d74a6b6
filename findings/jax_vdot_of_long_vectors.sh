#!/usr/bin/env bash
# JAX 0.10.1 on CPUs: the product of two long float32 vectors is summed in one number, term by term; jnp.sum is not.
#
# Expected: jnp.vdot(x, x) of 2^25 ones is 33,554,432, as jnp.sum(x * x), jnp.einsum on two rows, and NumPy have it.
# Observed: jnp.vdot, jnp.dot and x @ x return 16,777,216 = 2^24 for 2^24, 2^25 and 2^27 ones alike: a float32 to which 1
#   is added stays there. The squares of 28 million draws of a normal distribution come out 6 to 7 % too small. A product
#   of two rows with a matrix ([2, N] times [N, 2]) is right. No warning; results of some thousand terms look right.
#   JAX 0.12.0.1 has the right sums; 0.10.1 is among the newest that Python 3.11 can install.
# Why it matters: the norm of a gradient or of all weights, a cosine of two models, and conjugate gradients
#   (jax.scipy.sparse.linalg uses vdot) are computed in this way, on CPUs in tests of code for GPUs, too. jnp.sum of the
#   products is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jax==0.10.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
for exponent in (24, 25, 27):
    x = jnp.ones(1 << exponent, jnp.float32)
    found = {"vdot": jnp.vdot(x, x), "dot": jax.jit(jnp.dot)(x, x), "@": x @ x}
    found = {name: int(value) for name, value in found.items()}
    right = {"sum": jnp.sum(x * x), "two rows": (jnp.stack([x, x]) @ jnp.stack([x, x]).T)[0, 1]}
    right["NumPy"] = np.dot(np.asarray(x), np.asarray(x))
    right = {name: int(value) for name, value in right.items()}
    print(f"2^{exponent} ones: {found}; {right}")
    assert set(found.values()) == {1 << 24}, "the behavior has changed"
    assert set(right.values()) == {1 << exponent}, "the behavior has changed"
draws = jax.random.normal(jax.random.key(0), 28_000_000)
share = float(jnp.vdot(draws, draws)) / float(np.sum(np.asarray(draws, np.float64) ** 2))
print(f"squares of 28,000,000 normal draws: {share:.4f} of their sum")
assert 0.9 < share < 0.97, "the behavior has changed"
PY
