#!/usr/bin/env bash
# flax 0.12.8: a big-endian array comes back from to_bytes and from_bytes with its bytes swapped: 1.0 is 4.6e-41.
#
# Expected: msgpack_restore(msgpack_serialize(x)) and from_bytes(x, to_bytes(x)) are x, whatever the byte order of a
#   NumPy array, as with np.save, pickle and msgpack-numpy. Or an error: jnp.asarray refuses big-endian arrays.
# Observed: the file has the type's name, which is "float32" for both orders, and the bytes as they lie in memory.
#   Reading gives them the machine's order. Integers (1 becomes 16,777,216) and float16 are the same. Shapes, types and
#   keys are right, and nothing is reported.
# Why it matters: HDF5, FITS, NetCDF, IDX and big-endian GGUF files are read as such arrays, and NumPy computes with
#   them as with any. Weights converted from them to a flax checkpoint in NumPy alone are noise near 0.
#   array.astype(array.dtype.newbyteorder("=")) before saving avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" flax==0.12.8 msgpack-numpy==0.4.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import io
import pickle
import sys

import flax
import jax.numpy as jnp
import msgpack_numpy
import numpy as np
from flax import serialization

print("flax", flax.__version__, "numpy", np.__version__, "on a", sys.byteorder, "endian machine")
other = ">" if sys.byteorder == "little" else "<"


def numpy_turned(array: np.ndarray) -> np.ndarray:
    """The array after np.save."""
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    return np.load(file)


for kind in ("f4", "f2", "i4", "u2"):
    array = np.array([1, 2, 3], other + kind)
    found = {
        "msgpack_restore": serialization.msgpack_restore(serialization.msgpack_serialize({"x": array}))["x"],
        "from_bytes": serialization.from_bytes({"x": array}, serialization.to_bytes({"x": array}))["x"],
    }
    right = {
        "np.load": numpy_turned(array), "pickle": pickle.loads(pickle.dumps(array)),
        "msgpack_numpy": msgpack_numpy.unpackb(msgpack_numpy.packb(array)),
    }
    native = array.astype(array.dtype.newbyteorder("="))
    right["native"] = serialization.msgpack_restore(serialization.msgpack_serialize({"x": native}))["x"]
    try:
        jnp.asarray(array)
    except TypeError as error:
        refused = str(error.__cause__)
    else:
        raise SystemExit("JAX has changed")
    print(f"{array.dtype.str} {array.tolist()}:", {name: each.tolist() for name, each in found.items()})
    assert all(np.array_equal(each, array) for each in right.values())
    for each in found.values():
        assert each.dtype.name == array.dtype.name and each.tobytes() == array.tobytes(), "the behavior has changed"
        assert not np.array_equal(each, array), "the behavior has changed"
print("jnp.asarray:", refused)
PY
