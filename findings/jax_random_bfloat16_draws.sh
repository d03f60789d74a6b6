#!/usr/bin/env bash
# JAX 0.10.1: draws of jax.random in bfloat16 have 7 random bits, so sampling finds only the first tokens of a vocabulary.
#
# Expected: jax.random.categorical(key, logits) draws from softmax(logits). The logits' type matters as much as their
#   rounding does: equal logits are exact in bfloat16, so all 50,257 tokens are equally likely.
# Observed: the noise has the type of the logits. In bfloat16 it has 128 values, thousands of tokens tie, and the argmax
#   takes the first: no draw of 500 is above token 1,500. float16 (1,024 values) has the same fault. The docstring
#   names only a limit of float32, at probabilities of 1e-7.
#   Likewise random.normal has 128 values and none above 2.6 standard deviations, and bernoulli(bfloat16(0.001)), as for
#   a dropout mask, is true 8 times as often.
# Why it matters: a GPT-2 that computes in bfloat16 has bfloat16 logits. At high temperature or with a flat
#   distribution, samples lean to low ids, which are the frequent tokens, and look plausible. Cast logits to float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

VOCAB = 50_257
key = jax.random.key(0)
print("jax", jax.__version__)
highest, normals, rates = {}, {}, {}
for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
    name = dtype.__name__
    tokens = jax.lax.map(lambda k: jax.random.categorical(k, jnp.zeros(VOCAB, dtype)), jax.random.split(key, 500))
    highest[name] = int(tokens.max())
    normal = jax.random.normal(key, (200_000,), dtype).astype(jnp.float32)
    normals[name] = len(jnp.unique(normal)), float(normal.max())
    rates[name] = float(jnp.mean(jax.random.bernoulli(key, jnp.asarray(0.001, dtype), (200_000,))))
    print(f"{name:>8}: equal logits, 500 draws of {VOCAB:,} tokens: mean {float(tokens.mean()):.0f}, highest "
          f"{highest[name]}; normal: {normals[name][0]:,} values, maximum {normals[name][1]:.2f}; "
          f"bernoulli(0.001): {rates[name]:.4f}")
assert highest["float32"] > 50_000 and normals["float32"][1] > 4 and rates["float32"] < 0.0014
is_so = highest["bfloat16"] < 1500 and highest["float16"] < 15_000 and normals["bfloat16"][0] == 128
assert is_so and normals["bfloat16"][1] < 2.6 and rates["bfloat16"] > 0.007, "the behavior has changed"
PY
