#!/usr/bin/env bash
# flax 0.12.8: nnx.metrics.Average of a batch of float16 losses near 11 is inf, and of bfloat16 ones (1.0) 0.999.
#
# Expected: Average holds its total in float32, so that the average of many numbers is right; jnp.mean of the same
#   arrays is, as it adds up in float32. Documentation and signature say nothing of the type of the values.
# Observed: the values of one update are added up and the sum is rounded to their own type, before it is added to the
#   total: float16 has no numbers above 65,504, which 8 times 1,024 losses of 11 exceed, and then the average is inf
#   until reset(). bfloat16 sums have 8 bits: 1,001 ones count as 1,000. nnx.metrics.Accuracy is not affected.
# Why it matters: this is the metric of flax's examples for the loss, and models in half precision give losses and
#   scores in it. inf looks like a diverged run, which has a finite loss; an error of 0.1% to 0.4% is the difference
#   between two models.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" flax==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

import jax
import jax.numpy as jnp
from flax import nnx

print("flax", version("flax"), "jax", jax.__version__)
found = {}
for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
    for value, shape in ((11.0, (8, 1024)), (1.0, (1001,))):
        values = jnp.full(shape, value, dtype)
        metric = nnx.metrics.Average()
        for _ in range(3):
            metric.update(values=values)
        found[dtype, value] = float(metric.compute())
        print(f"{value} in {dtype.__name__}, {shape}: Average {found[dtype, value]}, jnp.mean {jnp.mean(values)}")
        assert float(jnp.mean(values)) == value
assert found[jnp.float32, 11.0] == 11 and found[jnp.float32, 1.0] == 1
assert math.isinf(found[jnp.float16, 11.0]), "the behavior has changed"
assert abs(found[jnp.bfloat16, 1.0] - 1000 / 1001) < 1e-6, "the behavior has changed"
PY
