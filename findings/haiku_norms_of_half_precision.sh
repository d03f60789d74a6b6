#!/usr/bin/env bash
# dm-haiku 0.0.17: hk.RMSNorm and hk.LayerNorm of float16 values of 300 and -300 are 0 everywhere; 1 and -1 are right.
#
# Expected: a norm removes the scale of its input, so 300 and 3 give the same result. float16 holds numbers up to
#   65504, and Keras' RMSNormalization of the same values is right.
# Observed: the squares are taken in float16, where 300 * 300 is inf, and a number divided by inf is 0. hk.LayerNorm
#   subtracts the mean first, and is 0 where the variance is above 65504. No NaN and no warning. bfloat16 is right.
# Why it matters: activations of several hundred are usual in the residual stream of a trained transformer. A float16
#   model then gives zeros for exactly the tokens with the largest activations, and goes on without an error, so that
#   the fault is looked for in the weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q dm-haiku==0.0.17 jax==0.10.1 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

print("dm-haiku", version("dm-haiku"), "jax", jax.__version__)
norms = {"RMSNorm": lambda x: hk.RMSNorm(-1)(x), "LayerNorm": lambda x: hk.LayerNorm(-1, True, True)(x)}
pattern = np.tile([1.0, -1.0], 32)
zeros = {}
for name, norm in norms.items():
    function = hk.without_apply_rng(hk.transform(norm))
    for scale in (3, 200, 300, 600):
        found = []
        for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
            x = jnp.asarray(pattern * scale, dtype)[None]
            parameters = function.init(jax.random.key(0), x)
            found.append(float(jnp.abs(function.apply(parameters, x)).max()))
        zeros[name, scale] = found[0] == 0
        print(f"{name} of values of {scale}: float16 {found[0]:.3f}, bfloat16 {found[1]:.3f}, float32 {found[2]:.3f}")
        assert all(abs(value - 1) < 0.02 for value in found[1:])
assert not zeros["RMSNorm", 3] and not zeros["LayerNorm", 3]
assert zeros["RMSNorm", 300] and zeros["LayerNorm", 300], "the behavior has changed"
PY
