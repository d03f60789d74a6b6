#!/usr/bin/env bash
# numcodecs 0.16.6: BitRound turns the NaN that NVIDIA's GPUs compute into -0.0, and NumPy's NaN stays NaN.
#
# Expected: BitRound keeps the given bits of the mantissa, and rounds the others. NaN stays NaN, whatever its bits are,
#   as in any rounding of IEEE 754; a codec that cannot keep it raises.
# Observed: it adds half a unit to the bits as an integer. NaN with all bits set (7fffffff in float32, 7fff in float16),
#   which is what CUDA's arithmetic gives ("canonical NaN" in the PTX manual), overflows into the sign: -0.0. ffffffff
#   becomes 0.0. np.nan is 7fc00000 and survives, so a test with np.nan passes. Values near the largest one become
#   inf. Rounding is lossy, so no reader can undo it, and there is no warning. The docstring says nothing of NaN.
# Why it matters: checkpoints, activations and gradients of a run are stored with such codecs to save space. A layer that
#   is all NaN reads as zeros: isnan finds nothing, a restart "works", and averages over it are finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder/weights.zarr" <<'PY'
import sys

import numcodecs
import numpy as np
import zarr
from numcodecs.zarr3 import BitRound

print("numcodecs", numcodecs.__version__, "zarr", zarr.__version__, "numpy", np.__version__)


def rounded(bits: int, dtype: str, keep: int) -> str:
    """What is left of the value with these bits."""
    value = np.array([bits], {"float16": np.uint16, "float32": np.uint32, "float64": np.uint64}[dtype]).view(dtype)
    return str(numcodecs.BitRound(keep).encode(value).view(dtype)[0])


for dtype, keep, numpys, cudas, negative in (
    ("float16", 7, 0x7E00, 0x7FFF, 0xFFFF),
    ("float32", 10, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF),
    ("float64", 20, 0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF),
):
    found = [rounded(bits, dtype, keep) for bits in (numpys, cudas, negative)]
    print(f"{dtype}: {numpys:x} becomes {found[0]}, {cudas:x} becomes {found[1]}, {negative:x} becomes {found[2]}")
    assert found == ["nan", "-0.0", "0.0"], "the behavior has changed"
assert all(rounded(0x7FFFFFFF, "float32", keep) == "-0.0" for keep in range(1, 23)), "the behavior has changed"

layer = np.full((4, 1024), 0x7FFFFFFF, np.uint32).view(np.float32)
layer[2:] = np.nan
array = zarr.create_array(sys.argv[1], shape=layer.shape, chunks=(1, 1024), dtype="f4", filters=[BitRound(keepbits=10)])
array[:] = layer
read = zarr.open_array(sys.argv[1])[:]
for row, name in ((0, "rows of 7fffffff"), (2, "rows of np.nan")):
    print(f"{name}: NaN before {np.isnan(layer[row : row + 2]).mean():.0%}, after zarr {np.isnan(read[row : row + 2]).mean():.0%}")
assert np.isnan(layer).all() and (read[:2] == 0).all() and np.signbit(read[:2]).all(), "the behavior has changed"
assert np.isnan(read[2:]).all(), "the behavior has changed"
PY
