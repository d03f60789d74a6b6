#!/usr/bin/env bash
# JAX 0.10.1 on CPUs: jnp.array(buffer, copy=True) returns before it has copied.
#
# Expected: jnp.array copies by default, as np.array does: after the call the buffer belongs to the caller again.
#   "Asynchronous dispatch" is about computations; the input of a finished call is safe.
# Observed: for large arrays whose memory is not aligned to 64 bytes the copy runs in another thread after the call. An
#   assignment to the buffer in the next line changes the JAX array, in part and now and then, by the race. Small or
#   aligned arrays are copied within the call, and so are all after block_until_ready, so tests see nothing.
# Why it matters: large NumPy arrays of malloc begin 16 bytes into a page, so nearly all are of this kind. An optimizer or
#   an averaging loop in NumPy that updates weights in place after jnp.array(weights), or a loader that reuses its
#   buffer, hands on torn arrays of two steps. Call block_until_ready first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

SIZE, TRIES = 50_257 * 1600, 10  # the embedding of GPT-2 with 1.5 billion parameters
memory = np.zeros(SIZE + 32, np.float32)
aligned = -memory.ctypes.data % 64 // 4
buffers = {"aligned": memory[aligned:][:SIZE], "malloc's": memory[aligned + 4 :][:SIZE]}


def changed(buffer: np.ndarray, *, waits: bool) -> int:
    """How many of the copies of zeros have a one that was written to the buffer after the call."""
    count = 0
    for _ in range(TRIES):
        buffer[:] = 0
        copy = jnp.array(buffer, copy=True)
        if waits:
            copy.block_until_ready()
        buffer[-1] = 1
        count += int(copy[-1])
    return count


print("jax", jax.__version__, "numpy", np.__version__)
found = {(name, waits): changed(buffer, waits=waits) for name, buffer in buffers.items() for waits in (False, True)}
for (name, waits), count in found.items():
    wait = "after block_until_ready" if waits else "in the next line"
    print(f"{name} memory, write {wait}: {count} of {TRIES} copies changed")
assert found.pop(("malloc's", False)) > 0 and not any(found.values()), "the behavior has changed"
PY
