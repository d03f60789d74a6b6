#!/usr/bin/env bash
# JAX 0.10.1 on a CPU writes one element of a donated bfloat16 array by converting all of its elements there and back.
#
# Expected: `x.at[i].set(1)` and lax.dynamic_update_slice of a donated array change it in place, and nothing else of it,
#   as they do with float32, float16 and integers.
# Observed: the compiled program of bfloat16 makes float32 of every element, writes one, and makes bfloat16 of all; that
#   of float8_e5m2 the same with float16. One of 64 Mi elements takes 90 to 160 ms, where float16 takes 0.01 ms, and
#   elements that nobody wrote change their bits where they are NaN with a payload: 0x7f81 becomes 0x7fc0.
# Why it matters: a cache of keys and values in bfloat16 takes time for each new token in proportion to all that it can
#   hold. lax.bitcast_convert_type to uint16 and back around dynamic_update_slice keeps the bits, and takes 6 ms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import time

import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
N = 1 << 26


def put(x, i):
    return x.at[i].set(1)


def put_slice(x, i):
    return jax.lax.dynamic_update_slice(x, jnp.ones(1, x.dtype), (i,))


def put_bits(x, i):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
    one = jax.lax.bitcast_convert_type(jnp.ones(1, x.dtype), jnp.uint16)
    return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(bits, one, (i,)), x.dtype)


def converts_all(write, dtype: str) -> bool:
    """Whether the program has an array of N elements in a wider type."""
    x = jnp.zeros(N, dtype)
    program = jax.jit(write, donate_argnums=0).lower(x, 0).compile()
    seconds = []
    for i in range(3):
        begun = time.perf_counter()
        x = program(x, i).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    wider = {"bfloat16": "f32", "float8_e5m2": "f16"}.get(dtype, "f64")
    found = f"= {wider}[{N}]" in program.as_text()
    print(f"{write.__name__}, {dtype}: all converted: {found}; one element in {1000 * min(seconds):.3f} ms")
    return found


for write, dtype, expected in (
    (put, "float32", False),
    (put, "float16", False),
    (put, "bfloat16", True),
    (put, "float8_e5m2", True),
    (put_slice, "bfloat16", True),
    (put_bits, "bfloat16", False),
):
    assert converts_all(write, dtype) == expected, "the behavior has changed"

before = np.array([0x7F81, 0x3F80], np.uint16)
for write, expected in ((put, 0x7FC0), (put_slice, 0x7FC0), (put_bits, 0x7F81)):
    after = np.asarray(jax.jit(write)(jnp.asarray(before.view(jnp.bfloat16)), 1)).view(np.uint16)
    print(f"{write.__name__}: element 0, which is not written, was 0x7f81 and is {after[0]:#x}")
    assert after[0] == expected, "the behavior has changed"
PY
