#!/usr/bin/env bash
# jaxlib 0.10.2 (the newest JAX for Python 3.11) on CPUs.
# Expected: jit changes no value: the squared norm of each row of a small matrix product is that of NumPy.
# Happens: XLA gives the product and the reduction to YNNPACK as one fusion. With 32,769 rows the last row, which lies
# in the last and smallest part, comes out wrong, without a word; 0.10.1 is right (jax-ml/jax#39103).
# Why it matters: a pip on Python 3.11 installs 0.10.2 today, and sums of squares over a batch are in every training
# step (norms of gradients, layer norms, losses).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/norms.py" <<'PROGRAM'
import jax
import jax.numpy as jnp

ROWS = 32_769
first = jnp.arange(ROWS, dtype=jnp.float32)
rows = jnp.stack((first, jnp.zeros_like(first), jnp.zeros_like(first)), axis=1)
weights = jnp.eye(3, dtype=jnp.float32)
norms = jax.jit(jax.vmap(lambda row: jnp.sum((weights @ row) ** 2)))(rows)
print(jax.__version__, int(norms[-1]))
PROGRAM
for version in 0.10.1 0.10.2; do
  python3.11 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version" 2> /dev/null
  JAX_PLATFORMS=cpu "$folder/$version/bin/python" "$folder/norms.py"
done | tee "$folder/seen"
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce "$folder/0.10.2/bin/python" "$folder/norms.py" | tee -a "$folder/seen"
diff "$folder/seen" - <<'SEEN'
0.10.1 1073741824
0.10.2 1071645696
0.10.2 1073741824
SEEN
