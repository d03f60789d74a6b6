#!/usr/bin/env bash
# optax 0.2.8: the global norm of many bfloat16 gradients is too small, so clip_by_global_norm(1.0) lets through 1.5.
#
# Expected: optax.tree.norm of n arrays of norm 1 is sqrt(n), within bfloat16's rounding of 0.4 %, as it is for any one
#   bfloat16 array: jnp.sum accumulates in float32.
# Observed: the sums of squares of the leaves are bfloat16 and are added one after the other in bfloat16, where
#   256 + 1 = 256. From 256 leaves of equal norm on, the norm stays 16, with and without jit.
# Why it matters: GPT-2's 1.5B model has 580 arrays and the 774M model 436 (a list of layers, as in Hugging Face's
#   checkpoints). With bfloat16 gradients the logged norm is 16 instead of 24, and clipping leaves a norm of 1.5 where 1
#   was asked for. Stacked layers, or gradients cast to float32, are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

print("jax", jax.__version__, "optax", optax.__version__)
clip = optax.clip_by_global_norm(1.0)
found = {}
for name, layers in (("124M", 12), ("355M", 24), ("774M", 36), ("1.5B", 48)):
    leaves = 4 + 12 * layers  # wte, wpe, ln_f; 12 arrays a layer
    for dtype in (jnp.float32, jnp.bfloat16):
        gradients = [jnp.full(64, 0.125, dtype) for _ in range(leaves)]  # each of norm 1
        norm, compiled = float(optax.tree.norm(gradients)), float(jax.jit(optax.tree.norm)(gradients))
        clipped, _ = jax.jit(clip.update)(gradients, clip.init(gradients))
        left = float(optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), clipped)))
        found[name, dtype.__name__] = norm, compiled, left
        print(f"{name}: {leaves} arrays, {dtype.__name__:>8}: norm {norm:.3f} (jit {compiled:.3f}), exact "
              f"{leaves**0.5:.3f}; norm after clipping to 1: {left:.3f}")
assert all(abs(found[name, "float32"][2] - 1) < 1e-3 for name in ("124M", "1.5B"))
norm, compiled, left = found["1.5B", "bfloat16"]
assert norm == compiled == 16 and left > 1.45, "the behavior has changed"
PY
