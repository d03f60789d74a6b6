#!/usr/bin/env bash
# JAX 0.10.1: jax.nn.one_hot of a byte in a vocabulary of 259 has two ones for the bytes 0, 1 and 2.
#
# Expected: "Each index is encoded as a vector of zeros with the element at index set to one", says the documentation,
#   and indices outside the range as zeros. So a row has one 1 or none, whatever integers the ids are.
# Observed: the ids are compared with 0, 1, 2 ... in the type of the ids, where the numbers of the classes wrap around.
#   With uint8 ids class 256 is 0 again: byte 1 gives ones at 1 and 257, and in 600 classes at 1, 257 and 513. uint16 id
#   10 in the 128,256 classes of Llama 3 gives ones at 10 and 65,546. The int8 id -1, which should give zeros, is class
#   255 of 300. Neither jit nor a NumPy array changes that, and nothing is reported.
# Why it matters: byte-level models have 256 bytes and some special tokens, ByT5 for example 259 ids, and text comes as
#   uint8. one_hot(ids, n) @ embedding, common on TPUs, adds the vector of a special token to some bytes, and a loss on
#   such targets asks for two tokens at once. ids.astype(int32) helps. torch.nn.functional.one_hot wants int64.
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

print("jax", jax.__version__)


def ones(index: int, dtype: str, classes: int) -> list[int]:
    """Where one_hot has ones, by itself and compiled."""
    ids = np.array(index, dtype)
    rows = [jax.nn.one_hot(ids, classes), jax.jit(lambda ids: jax.nn.one_hot(ids, classes))(jnp.asarray(ids))]
    found, compiled = [np.flatnonzero(row).tolist() for row in rows]
    assert found == compiled
    return found


for index, dtype, classes, expected in (
    (1, "int32", 259, [1]),
    (1, "uint8", 259, [1, 257]),
    (3, "uint8", 259, [3]),
    (1, "uint8", 600, [1, 257, 513]),
    (10, "uint16", 128_256, [10, 65_546]),
    (-1, "int32", 300, []),
    (-1, "int8", 300, [255]),
):
    found = ones(index, dtype, classes)
    print(f"id {index} of type {dtype} among {classes:,} classes: ones at {found}")
    assert found == expected, "the behavior has changed"

embedding = jnp.arange(259.0)  # the vector of token i is i
text = np.frombuffer(b"\x00\x01\x02abc", np.uint8)
vectors = {kind: (jax.nn.one_hot(text.astype(kind), 259) @ embedding).tolist() for kind in ("int32", "uint8")}
print("embeddings:", vectors)
assert vectors["int32"] == text.tolist() and vectors["uint8"] == [256, 258, 260, 97, 98, 99], "the behavior has changed"
PY
