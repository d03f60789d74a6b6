#!/usr/bin/env bash
# JAX 0.10.1 and SciPy 1.17.1: the softmax of 65,520 equal float16 logits is 0 everywhere; of 65,519 it is right.
#
# Expected: the documentation of jax.nn.softmax says that the results sum to 1 and that +inf in the input gives NaN. The
#   largest logit is subtracted first, so nothing overflows, and each probability, 1.5e-5, is a float16.
# Observed: the sum of the exponentials is rounded to float16, which ends at 65,504, and the exponentials are divided by
#   inf. All probabilities are 0, logsumexp is inf and log_softmax is -inf, with finite logits of normal size, by itself
#   and compiled, and in scipy.special as well; scipy.stats.entropy of 100,000 equal weights is 0 instead of 11.5.
#   PyTorch 2.13 on CPUs has the right softmax and -inf for log_softmax.
# Why it matters: vocabularies of 128,256 (Llama 3) and 151,936 (Qwen) have more entries than float16 can count. With an
#   untrained model, whose logits are all near 0, the loss of the first step is inf, and code that draws from the
#   probabilities finds none. Rows of attention scores in float16 over longer contexts become zero vectors. bfloat16 is
#   not affected. Convert to float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" numpy==2.4.6 scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import scipy.special
import scipy.stats

warnings.simplefilter("ignore")
print("jax", jax.__version__, "scipy", scipy.__version__)
ways = {"JAX": jax.nn.softmax, "JAX, compiled": jax.jit(jax.nn.softmax), "SciPy": scipy.special.softmax}
untrained = 0.1 * np.random.default_rng(0).standard_normal(128_256)
rows = {"65,519 zeros": np.zeros(65_519), "65,520 zeros": np.zeros(65_520), "128,256 logits near 0": untrained}
for name, row in rows.items():
    for way, softmax in ways.items():
        half = row.astype(np.float16)
        total = float(np.asarray(softmax(half), np.float64).sum())
        bfloat16 = float(np.asarray(jax.nn.softmax(jnp.asarray(row, jnp.bfloat16)), np.float64).sum())
        print(f"{name}: softmax by {way} sums to {total:.4f}, in bfloat16 by JAX to {bfloat16:.4f}")
        is_short = len(row) < 65_520
        assert abs(total - 1) < 0.01 if is_short else total == 0, "the behavior has changed"
        assert abs(bfloat16 - 1) < 0.01

logits = untrained.astype(np.float16)
found = [float(jax.nn.logsumexp(logits)), float(scipy.special.logsumexp(logits))]
lost = [float(jax.nn.log_softmax(logits)[0]), float(scipy.special.log_softmax(logits)[0])]
entropy = float(scipy.stats.entropy(np.ones(100_000, np.float16)))
right = float(jax.nn.logsumexp(logits.astype(np.float32)))
print(f"logsumexp {found}, in float32 {right:.2f}; log_softmax of a token {lost}")
print(f"entropy of 100,000 equal weights: {entropy}, expected {np.log(1e5):.2f}")
assert found == [np.inf] * 2, "the behavior has changed"
assert lost == [-np.inf] * 2 and entropy == 0, "the behavior has changed"
PY
