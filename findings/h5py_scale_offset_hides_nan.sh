#!/usr/bin/env bash
# h5py 3.16.0: a NaN in a float32 data set with scaleoffset=2 is read back as another number of the chunk.
#
# Expected: NaN, as without the filter; or an error. The documentation says that scaleoffset is lossy for floats, that
#   it keeps as many digits after the point as asked for, and nothing of NaN.
# Observed: [1.25, nan, 2.5, 3.75] is [1.25, 1.25, 2.5, 3.75] on x86-64: the distance of NaN to the smallest value of
#   the chunk is converted to an integer, which C leaves open. In a chunk with an infinity all values, NaN too, are
#   kept exactly, as the filter gives up there. HDF5's filter does it, so netCDF and other readers do as well.
# Why it matters: NaN marks what was not measured, or a step that diverged. After saving it is an ordinary value, the
#   best loss of the chunk, and means, plots and isnan() see nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q h5py==3.16.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/losses.h5" <<'PY'
import sys

import h5py
import numpy as np

print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version, "numpy", np.__version__)


def trip(values: np.ndarray, **options: object) -> np.ndarray:
    """What is read of the values."""
    with h5py.File(sys.argv[1], "w") as file:
        file.create_dataset("loss", data=values, chunks=values.shape, **options)
    with h5py.File(sys.argv[1]) as file:
        return file["loss"][:]


for dtype in ("f4", "f8"):
    losses = np.array([1.25, np.nan, 2.5, 3.75] * 25, dtype)
    infinite = np.where(np.arange(100) == 3, np.inf, losses).astype(dtype)
    plain, found, kept = trip(losses), trip(losses, scaleoffset=2), trip(infinite, scaleoffset=2)
    count = [int(np.isnan(each).sum()) for each in (losses, plain, found, kept)]
    print(f"{dtype}: {losses[:4].tolist()} is read as {found[:4].tolist()}; NaN written, read without the filter, with "
          f"it, and beside an infinity: {count}")
    assert np.array_equal(plain, losses, equal_nan=True)
    assert np.allclose(found[~np.isnan(losses)], losses[~np.isnan(losses)], atol=0.01)
    assert count == [25, 25, 0, 25], "the behavior has changed"
PY
