#!/usr/bin/env bash
# JAX 0.10.1 on CPUs: device_put(array, may_alias=False) shares NumPy's memory; a reused buffer changes "immutable" arrays.
#
# Expected: the docstring says of may_alias: "If False, `x` will be copied." So the buffer can be filled again as soon as
#   the result is ready, as on a GPU.
# Observed: where the memory of the NumPy array is aligned to 64 bytes, the JAX array is that memory, whatever may_alias
#   says (jax-ml/jax#37830); make_array_from_process_local_data and make_array_from_callback share it too. np.memmap and
#   shared memory are always aligned so, and small arrays of NumPy now and then, so a test with np.zeros may pass.
#   jnp.array and jnp.asarray copy.
# Why it matters: loaders whose workers fill a ring of shared memory overwrite batches that wait on the device; a copy of
#   the weights kept from a memory-mapped file follows the file. Runs train on wrong tokens on CPUs, and tests on CPUs
#   of a loader for GPUs fail or do not by the alignment of malloc. Copy with np.array before device_put.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/tokens" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

tokens = np.memmap(sys.argv[1], np.int32, "w+", shape=(8, 1025))
sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ways = {
    "device_put": jax.device_put,
    "device_put(may_alias=False)": lambda array: jax.device_put(array, may_alias=False),
    "make_array_from_process_local_data": lambda array: jax.make_array_from_process_local_data(sharding, array),
    "make_array_from_callback": lambda array: jax.make_array_from_callback(array.shape, sharding, array.__getitem__),
    "jnp.asarray": jnp.asarray,
    "jnp.array": jnp.array,
}
print("jax", jax.__version__)
shares = {}
for name, placed in ways.items():
    tokens[:] = 1
    batch = jax.block_until_ready(placed(tokens))
    tokens[:] = 2  # the next batch
    shares[name] = int(batch.max()) == 2
    print(f"{name}: the first batch, of ones, is now {int(batch.min())} to {int(batch.max())}")
assert shares == {name: not name.startswith("jnp.") for name in ways}, "the behavior has changed"
PY
