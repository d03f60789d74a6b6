#!/usr/bin/env bash
# JAX 0.10.1: for uint16 tokens, `tokens < 65536` is False everywhere, and `tokens == -1` is True for token 65535.
#
# Expected: comparing with a Python integer compares values, as NumPy 2 does for numbers that the type cannot hold: a
#   uint16 is always below 65,536, and never -1. Or an OverflowError, which NumPy raises for arithmetic with such
#   numbers, and JAX for jnp.array(-1, jnp.uint16).
# Observed: the integer is first cast to the array's type, where 65,536 wraps around to 0 and -100 to 65,436. Then
#   jnp.clip(tokens, 0, 65536) is all zeros, and jnp.full(n, -100, jnp.uint16) is 65,436. With uint8 and int8 it is the
#   same: a byte 44 equals 300. JAX's documentation says that the type of the array wins over that of a Python scalar,
#   and not that the value wraps, nor what that makes of comparisons.
# Why it matters: corpora for GPT-2 are files of uint16. A check such as (tokens < n_vocab).all() with 65,536 ids fails
#   on valid data, and a test for ignored targets (-100 in PyTorch and Hugging Face) finds a real token. PyTorch 2.13
#   wraps as well. Convert tokens to int32 where they reach the device.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)
tokens, texts = np.array([5, 50_256, 65_535], np.uint16), np.array([44, 255], np.uint8)
questions = {
    "tokens < 65536": (lambda np: np.asarray(tokens) < 65_536, [True] * 3, [False] * 3),
    "tokens == -1": (lambda np: np.asarray(tokens) == -1, [False] * 3, [False, False, True]),
    "clip(tokens, 0, 65536)": (lambda np: np.clip(np.asarray(tokens), 0, 65_536), tokens.tolist(), [0] * 3),
    "bytes == 300": (lambda np: np.asarray(texts) == 300, [False] * 2, [True, False]),
    "minimum(bytes, 300)": (lambda np: np.minimum(np.asarray(texts), 300), "OverflowError", [44, 44]),
    "full(2, -100, uint16)": (lambda np: np.full(2, -100, np.uint16), "OverflowError", [65_436, 65_436]),
}
for name, (question, *expected) in questions.items():
    found = []
    for module in (np, jnp):
        try:
            found.append(question(module).tolist())
        except OverflowError:
            found.append("OverflowError")
    print(f"{name}: NumPy {found[0]}, JAX {found[1]}")
    assert found == expected, "the behavior has changed"
compiled = jax.jit(lambda tokens, end: tokens < end)(jnp.asarray(tokens), 65_536).tolist()
print("compiled, with the number as an argument:", compiled)
assert compiled == [False] * 3, "the behavior has changed"
PY
