#!/usr/bin/env bash
# NumPy 2.4.6 with ml_dtypes 0.6.0 (JAX's bfloat16): the mean of 50,257 ones is 0.005, and np.std of weights is 10 times
# too small.
#
# Expected: np.asarray(jax_array).mean() is jax_array.mean() up to rounding. np.mean computes float16 in float32, and its
#   sum is pairwise, so bfloat16 loses digits at worst.
# Observed: the exception of np.mean is for float16 alone, and the loops of ml_dtypes add in bfloat16, one by one: a sum of
#   ones stops at 256, as 257 is no bfloat16. The mean of 2,000 losses of 3.0 is 0.51, without a warning. mean(),
#   var(), std() and average() are wrong; np.linalg.norm, which computes in float64, and dtype=np.float32 are right.
# Why it matters: looking at parameters is done in NumPy. A GPT-2 initialized with 0.02, in bfloat16, seems to have a
#   standard deviation of 0.002; a mean of losses, or of a mask of accuracies, seems excellent or terrible by its length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
weights = np.random.default_rng(0).normal(0, 0.02, (768, 768))
found = {}
for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
    cast = weights.astype(dtype)
    found[dtype.__name__] = ones, losses, deviation, norm = (
        float(np.ones(50_257, dtype).mean()), float(np.full(2000, 3, dtype).mean()), float(cast.std()),
        float(np.linalg.norm(cast)),
    )
    print(f"{dtype.__name__}: mean of 50,257 ones {ones:.4f}, of 2,000 threes {losses:.4f}; weights of 0.02: std "
          f"{deviation:.5f}, std in float32 {cast.std(dtype=np.float32):.5f}, norm {norm:.4f}")
    assert np.isclose(cast.std(dtype=np.float32), 0.02, rtol=0.01) and np.isclose(norm, 0.02 * 768, rtol=0.01)
for name in ("float32", "float16"):
    assert np.allclose(found[name][:3], (1, 3, 0.02), rtol=0.01), "the behavior has changed"
ones, losses, deviation, _ = found["bfloat16"]
assert ones < 0.01 and losses < 0.6 and deviation < 0.004, "the behavior has changed"
PY
