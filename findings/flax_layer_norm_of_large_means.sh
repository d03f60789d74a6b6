#!/usr/bin/env bash
# flax 0.12.8: LayerNorm of float32 values near 100 that differ by 0.1 is off by 0.4, and near 1000 its result is of
#   size 60.
#
# Expected: values with mean 0 and deviation 1, right to about 1e-5, as float32 holds values near 100 to 1e-5.
# Observed: the variance is mean(x^2) - mean(x)^2 by default, in nnx and in linen, where the digits of two large
#   numbers cancel. Where the difference is below 0 it is taken as 0, and only epsilon is left: the "normalized"
#   values have a deviation of 60. GroupNorm and BatchNorm do the same. use_fast_variance=False is right to 1e-3. The
#   documentation calls the default "faster, but less numerically stable".
# Why it matters: residual streams get means far from 0 in some layers, and so do inputs that nobody has scaled, such
#   as years, temperatures in kelvin or token ids. Weights that were trained elsewhere give other logits, and no
#   number is NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

print("flax", flax.__version__, "jax", jax.__version__)
WIDTH, EPSILON = 768, 1e-6
random, errors, sizes = np.random.default_rng(0), {}, {}
for mean, deviation in ((0, 1), (10, 1), (100, 0.1), (1000, 0.1)):
    x = jnp.asarray(mean + random.normal(0, deviation, (8, WIDTH)), jnp.float32)
    exact = np.asarray(x, np.float64)
    right = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + EPSILON)
    found = {
        "nnx": nnx.LayerNorm(WIDTH, rngs=nnx.Rngs(0))(x),
        "linen": linen.LayerNorm().init_with_output(jax.random.key(0), x)[0],
        "GroupNorm": nnx.GroupNorm(WIDTH, num_groups=1, rngs=nnx.Rngs(0))(x),
        "use_fast_variance=False": nnx.LayerNorm(WIDTH, use_fast_variance=False, rngs=nnx.Rngs(0))(x),
    }
    for name, values in found.items():
        errors[mean, name] = float(abs(np.asarray(values, np.float64) - right).max())
        sizes[mean, name] = float(np.std(values))
        print(f"mean {mean}, deviation {deviation}, {name}: error up to {errors[mean, name]:.1e}, deviation of the "
              f"result {sizes[mean, name]:.2f}")
assert all(errors[mean, "use_fast_variance=False"] < 2e-3 for mean in (0, 10, 100, 1000))
for name in ("nnx", "linen", "GroupNorm"):
    assert errors[0, name] < 1e-4, "the behavior has changed"
    assert errors[100, name] > 0.1 and sizes[1000, name] > 10, "the behavior has changed"
PY
