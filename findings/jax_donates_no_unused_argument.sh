#!/usr/bin/env bash
# JAX 0.10.1: an argument that the function does not read is not donated, and no warning says so.
#
# Expected: with donate_argnums=1 the memory of the second argument serves the result of the same shape and dtype, and the
#   array is deleted; where a donated buffer cannot be used, JAX warns ("Some donated buffers were not usable").
# Observed: the argument is dropped from the program as unused before donation is considered. The array stays alive, the
#   result gets memory of its own, memory_analysis().alias_size_in_bytes is 0, and nothing is reported. With
#   keep_unused=True the result is where the argument was.
# Why it matters: a program that writes into the memory of an old array does not need its values. A training step that
#   hands its last gradient back as room for the next one keeps two of them instead, and the system fills new memory with
#   zeros at every step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
cat > "$folder/program.py" <<'PY'
import warnings

import jax
import jax.numpy as jnp


def run(keep_unused: bool) -> tuple[bool, bool, int, int]:
    x, room = jnp.ones(1 << 16), jnp.zeros(1 << 16)
    place = room.unsafe_buffer_pointer()
    program = jax.jit(lambda x, room: x + 1, donate_argnums=1, keep_unused=keep_unused)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        y = program(x, room).block_until_ready()
    aliased = program.lower(x, jnp.zeros(1 << 16)).compile().memory_analysis().alias_size_in_bytes
    return room.is_deleted(), y.unsafe_buffer_pointer() == place, aliased, len(told)


dropped, kept = run(keep_unused=False), run(keep_unused=True)
print(f"jax {jax.__version__}: deleted, same place, aliased bytes, warnings: {dropped}; with keep_unused: {kept}")
assert dropped == (False, False, 0, 0), dropped
assert kept == (True, True, 1 << 18, 0), kept
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py"
