#!/usr/bin/env bash
# tinygrad 0.14.0: the mean of 100,000 times the token id 30,000 is -12,949.67.
#
# Expected: 30,000, or at least a number between the smallest and the largest value. The mean of uint8 values is
#   right.
# Observed: int32 values are summed as int32, which wraps at 2**31, and the wrapped sum is divided. uint8 and int16
#   are summed in 32 bits as well, so that 140,000 times 30,000 in int16 is wrong, too. PyTorch refuses the mean of
#   integers, NumPy and JAX compute it in floating point.
# Why it matters: ids, lengths of documents and counts are int32 tensors, and means of them are what a log shows. From
#   70,000 large ids on the figure is wrong, and it need not be negative: more values give some number within the
#   range.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tinygrad==0.14.0 numpy==2.4.6
DEV=PYTHON XDG_CACHE_HOME="$folder" "$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from tinygrad import Device, Tensor

print("tinygrad", version("tinygrad"), "device", Device.DEFAULT)
found = {}
CASES = (50_000, np.int32), (100_000, np.int32), (140_000, np.int32), (50_000, np.int16), (140_000, np.int16)
for count, dtype in CASES:
    ids = np.full(count, 30_000, dtype)
    found[count, dtype] = Tensor(ids).mean().item()
    print(f"{count} times 30000 as {dtype.__name__}: {found[count, dtype]:.2f}")
    assert ids.mean() == 30_000
assert abs(Tensor(np.full(100_000, 200, np.uint8)).mean().item() - 200) < 0.01
assert abs(found[50_000, np.int32] - 30_000) < 1 and abs(found[50_000, np.int16] - 30_000) < 1
for key in ((100_000, np.int32), (140_000, np.int32), (140_000, np.int16)):
    assert abs(found[key] - 30_000) > 10_000, "the behavior has changed"
PY
