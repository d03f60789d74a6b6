#!/usr/bin/env bash
# JAX 0.10.1: cumsum and cummax of one sharded array are right one by one, and wrong in one compiled program.
#
# Expected: each output of a compiled function is what it is without the others, on one device or on several.
# Observed: a running result of a divided array takes the totals of the devices before. With two kinds in one program,
#   the second uses the totals of the first: cummax after cumsum adds a 0 that is in no place of the array, cumsum after
#   cummax is -inf nearly everywhere, and 16 of the 20 pairs of cumsum, cumprod, cummax, cummin and cumlogsumexp have a
#   wrong second result. Without jit, or with one of them in the program, all is right. No warning. JAX 0.12.0.1 is
#   right; 0.10.1 is among the newest that Python 3.11 can install.
# Why it matters: tokens so far and the best loss so far of a sharded series, or positions and segment maxima of packed
#   sequences, are computed together. A result can turn wrong when another output is added to the same function.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jax==0.10.1
XLA_FLAGS=--xla_force_host_platform_device_count=2 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import itertools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

print("jax", jax.__version__)
mesh = Mesh(np.array(jax.devices()), ("data",))
series = np.array([-4, -3, -3.5, -2, -3, -2.5, -5, -4.5], np.float32)
parts = jax.device_put(series, NamedSharding(mesh, PartitionSpec("data")))
names = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
right = {name: np.asarray(getattr(jax.lax, name)(series)) for name in names}
for name in names:
    assert np.allclose(jax.jit(getattr(jax.lax, name))(parts), right[name], rtol=1e-4), name
wrong = []
for first, second in itertools.permutations(names, 2):
    both = [getattr(jax.lax, name) for name in (first, second)]
    one, other = (np.asarray(each) for each in jax.jit(lambda x, both=both: [function(x) for function in both])(parts))
    eager = [np.asarray(function(parts)) for function in both]
    assert np.allclose(one, right[first], rtol=1e-4) and np.allclose(eager[1], right[second], rtol=1e-4)
    if not np.allclose(other, right[second], rtol=1e-4):
        wrong.append((first, second))
    if {first, second} == {"cumsum", "cummax"}:
        print(f"{second} after {first}: {other.tolist()}, by itself {right[second].tolist()}")
print(f"of {len(names) * (len(names) - 1)} pairs, {len(wrong)} have a wrong second result")
assert len(wrong) == 16 and ("cumsum", "cummax") in wrong and ("cummax", "cumsum") in wrong, "the behavior has changed"
PY
