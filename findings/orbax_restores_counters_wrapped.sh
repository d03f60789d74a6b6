#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: 5,000,000,000 tokens, saved by NumPy, are restored into a template of JAX as 705,032,704.
#
# Expected: the value, or an error: "that value will be restored as the given type", says the documentation of the
#   target, and by default (strict=True) arrays of another shape are refused. NumPy raises for np.int32(5_000_000_000).
# Observed: int64 is cast to the template's int32 by cutting its upper bits, without a warning, and 3,000,000,000 is
#   negative. Python's integers in the tree, and a restore without a template, keep the value.
# Why it matters: a JAX program without x64 makes its template by jnp.zeros or eval_shape, which turn int64 into int32,
#   while a NumPy counter of tokens, bytes or random state passes 2**31 within a day. After the next restart schedules
#   and limits by tokens begin somewhere else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q orbax-checkpoint==0.12.8 jax==0.10.1 ml_dtypes==0.6.0 \
  numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/checkpoint" <<'PY'
import sys
import warnings
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

print({name: version(name) for name in ("orbax-checkpoint", "jax")})
saved = {"tokens": np.array(5_000_000_000), "bytes": np.array([3_000_000_000]), "python": 5_000_000_000}
with ocp.StandardCheckpointer() as checkpointer, warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    checkpointer.save(sys.argv[1], saved)
    checkpointer.wait_until_finished()
    plain = checkpointer.restore(sys.argv[1])
    template = {"tokens": jnp.zeros((), int), "bytes": jnp.zeros(1, int), "python": 0}
    restored = checkpointer.restore(sys.argv[1], template)
    abstract = jax.eval_shape(lambda: {"tokens": jnp.zeros((), int), "bytes": jnp.zeros(1, int)}) | {"python": 0}
    other = checkpointer.restore(sys.argv[1], abstract)
wrapped = [str(each.message) for each in found if "int" in str(each.message)]
print("without a template", plain, "with one", restored, "warnings of integers:", wrapped)
assert int(plain["tokens"]) == 5_000_000_000 and int(plain["bytes"][0]) == 3_000_000_000
assert int(restored["tokens"]) == int(other["tokens"]) == 5_000_000_000 % 2**32, "the behavior has changed"
assert int(restored["bytes"][0]) == int(other["bytes"][0]) == 3_000_000_000 - 2**32, "the behavior has changed"
assert restored["python"] == 5_000_000_000 and not wrapped
PY
