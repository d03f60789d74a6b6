#!/usr/bin/env bash
# JAX 0.10.1: jnp.mean of 100 times 1.0 in float8_e4m3fn is 0.6875, of 465 and more it is NaN; in bfloat16 it is 1.0.
#
# Expected: a mean lies between the smallest and the largest value. JAX sums float16 and bfloat16 in float32 and rounds
#   the result, so their means are right for any length, and float8 is a type of jnp as they are.
# Observed: float8 is summed in float8, where 1 + 1 + ... stops at 16, or at a few times 16, and the number of elements
#   becomes a float8 too: above 464 it is NaN in e4m3fn, and so is the mean. In e5m2 the mean of 1,000 ones is 0.0625.
#   jnp.dot of 1,000 ones and softmax of 1,000 zeros are NaN, jnp.var too. No warning; the documentation of mean says of
#   dtype "default is the same as the input dtype". With dtype=jnp.float32 all are right.
# Why it matters: weights and activations kept in float8 are checked by their mean, norm or softmax. A NaN there looks
#   like an overflow in training, and 0.69 for 1.0 like a wrong scale, though every stored number is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jax==0.10.1 ml_dtypes==0.6.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
means = {}
for dtype in ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"):
    means[dtype] = {size: float(jnp.mean(jnp.ones(size, dtype))) for size in (10, 100, 464, 465, 1_000)}
    jitted = {size: float(jax.jit(jnp.mean)(jnp.ones(size, dtype))) for size in means[dtype]}
    print(f"{dtype}: means of ones {means[dtype]}")
    assert np.array_equal(list(jitted.values()), list(means[dtype].values()), equal_nan=True)
    assert all(float(jnp.mean(jnp.ones(size, dtype), dtype=jnp.float32)) == 1 for size in means[dtype])
narrow = means["float8_e4m3fn"]
assert narrow[10] == 1 and narrow[100] < 0.8 and narrow[464] < 0.8, "the behavior has changed"
assert np.isnan([narrow[465], narrow[1_000]]).all(), "the behavior has changed"
assert means["float8_e5m2"][1_000] < 0.2, "the behavior has changed"
assert set(means["bfloat16"].values()) == set(means["float16"].values()) == {1}
ones, zeros = jnp.ones(1_000, "float8_e4m3fn"), jnp.zeros(1_000, "float8_e4m3fn")
others = {"dot": jnp.dot(ones, ones), "var": jnp.var(ones), "softmax": jax.nn.softmax(zeros)[0], "sum": jnp.sum(ones)}
print({name: float(value) for name, value in others.items()})
assert all(np.isnan(float(others[name])) for name in ("dot", "var", "softmax")), "the behavior has changed"
assert float(others["sum"]) < 448, "the behavior has changed"
PY
