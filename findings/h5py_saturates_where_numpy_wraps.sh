#!/usr/bin/env bash
# h5py 3.16.0: dataset.astype("uint8")[:] is not dataset[:].astype("uint8"): -1 becomes 0 or 255, 256 becomes 255 or 0.
#
# Expected: both give the same numbers, and an array that does not fit the type of a dataset is refused, as h5py refuses
#   a list or a Python integer that does not fit (OverflowError).
# Observed: HDF5 converts arrays, and it takes the nearest value that the type has: 70000 and -100 as uint16 are 65535
#   and 0, where NumPy gives 4464 and 65436. NaN becomes 0. This is so for writes, create_dataset(dtype=...), astype and
#   read_direct, without a warning. Written to float16, 65519 is inf; NumPy rounds it to 65504. h5py's guide does not
#   have the rule. It stands in a supplement to HDF5's C manual ("Overflow"), about a callback that h5py does not offer.
# Why it matters: a padding of -1 or -100 in token ids of 16 bits becomes token 0, an ordinary token ("!" in GPT-2), and
#   ids over 65,535 all become one token. A check that compares with NumPy's cast, or that runs on a list, sees
#   something else. A file written by NumPy's wrapped cast can be put right again; this one cannot.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q h5py==3.16.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder/ids.h5" <<'PY'
import sys

import h5py
import numpy as np

print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version, "numpy", np.__version__)
ids = np.array([0, 50256, 65535, 65536, 70000, -1, -100], np.int32)
half = np.array([65504, 65519], np.float32)
real = np.array([200.7, 256, -1, np.nan], np.float32)
with h5py.File(sys.argv[1], "w") as file:
    stored = file.create_dataset("int32", data=ids)
    written = file.create_dataset("uint16", ids.shape, "uint16")
    written[:] = ids
    created = file.create_dataset("created", data=ids, dtype="uint16")
    direct = np.empty(ids.shape, np.uint16)
    stored.read_direct(direct)
    ways = {"write": written[:], "create": created[:], "astype": stored.astype("uint16")[:], "read_direct": direct}
    for name, found in ways.items():
        print(f"{name}: {found.tolist()}")
    wrapped = stored[:].astype("uint16").tolist()
    print("NumPy:", wrapped)
    try:
        written[:] = ids.tolist()
        refused = False
    except OverflowError as error:
        refused = True
        print("the same as a list:", error)
    halves = file.create_dataset("float16", half.shape, "float16")
    halves[:] = half
    halves = halves[:].tolist()
    print(f"{half.tolist()} as float16: h5py {halves}, NumPy {half.astype('float16').tolist()}")
    bytes_ = file.create_dataset("float32", data=real).astype("uint8")[:].tolist()
    print(f"{real.tolist()} as uint8: h5py {bytes_}")
saturated = [0, 50256, 65535, 65535, 65535, 0, 0]
assert all(found.tolist() == saturated for found in ways.values()), "the behavior has changed"
assert wrapped == [0, 50256, 65535, 0, 4464, 65535, 65436] and refused
assert halves == [65504.0, np.inf] and bytes_ == [200, 255, 0, 0], "the behavior has changed"
PY
