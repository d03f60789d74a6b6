#!/usr/bin/env bash
# PyTorch 2.13.0 and JAX 0.10.1 (0.12.0.1 on Python 3.12 and later): allclose and isclose compare integers as float32.
#
# Expected: |a - b| <= atol + rtol |b|, as both document it: of int32 or int64, a difference of 64 is not within 1.
#   NumPy, from which both take the functions, computes this exactly.
# Observed: a given tolerance turns the comparison into one of float32, whose neighbors are 128 apart at 2^30 and 2^30
#   apart at 2^53. torch.allclose(2**30, 2**30 + 64, rtol=0, atol=1) is True, torch.testing.assert_close passes, and
#   of int64 with PyTorch 2^53 and 2^53 + 1000 are equal within 1. With rtol=0 and atol=0, which one writes for
#   "equal", PyTorch compares exactly; jnp.allclose still rounds.
# Why it matters: positions in a data set, numbers of tokens and checksums are of this size. A test that a resumed
#   loader is at the right token, or that two hosts hold the same counter, passes with another one. Use equal for
#   integers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" torch==2.13.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
import torch

print("torch", torch.__version__, "jax", jax.__version__, "numpy", np.__version__)
within = {"rtol": 0, "atol": 1}
base = 2**30
numpy = np.allclose(np.int32(base), np.int32(base + 64), **within)
pytorch = torch.allclose(torch.tensor([base]).int(), torch.tensor([base + 64]).int(), **within)
large = torch.allclose(torch.tensor([2**53]), torch.tensor([2**53 + 1000]), **within)
torch.testing.assert_close(torch.tensor([base]), torch.tensor([base + 64]), **within)
exact = torch.allclose(torch.tensor([base]), torch.tensor([base + 64]), rtol=0, atol=0)
ours = bool(jnp.allclose(jnp.int32(base), jnp.int32(base + 64), **within))
exact_jax = bool(jnp.allclose(jnp.int32(base), jnp.int32(base + 64), rtol=0, atol=0))
print(f"2^30 and 2^30 + 64 are within 1: NumPy {numpy}, PyTorch {pytorch}, JAX {ours}")
print(f"2^53 and 2^53 + 1000 of int64: PyTorch {large}; tolerance 0 at 2^30: PyTorch {exact}, JAX {exact_jax}")
assert (numpy, pytorch, ours, large, exact, exact_jax) == (False, True, True, True, False, True), "it has changed"
PY
