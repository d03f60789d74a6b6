#!/usr/bin/env bash
# torchmetrics 1.9.0: the mean squared error of 200 and 10 as uint8 is 4.0 instead of 36,100; int32 wraps as well.
#
# Expected: a metric that takes integers gives the error of the numbers; scikit-learn does.
# Observed: the difference and its square are computed in the type of the inputs, and converted to float only at the
#   end: 190 * 190 is 36,100, which is 4 modulo 256. The absolute error of 10 and 200 is 66. In int32, as token counts
#   are, errors of more than 46,340 wrap, to numbers that may be negative. No warning.
# Why it matters: counts, lengths, byte values and class numbers are integers, and a small error looks like a good
#   model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 \
    scikit-learn==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sklearn.metrics
import torch
from torchmetrics import MeanAbsoluteError, MeanSquaredError

print({name: version(name) for name in ("torchmetrics", "torch", "scikit-learn")})
found = {}
for prediction, target, dtype in ((200, 10, torch.uint8), (10, 200, torch.uint8), (60_000, 0, torch.int32)):
    values = torch.tensor([prediction], dtype=dtype), torch.tensor([target], dtype=dtype)
    floats = tuple(value.float() for value in values)
    arrays = tuple(value.numpy() for value in values)
    squared, of_floats = float(MeanSquaredError()(*values)), float(MeanSquaredError()(*floats))
    absolute = float(MeanAbsoluteError()(*values))
    right = sklearn.metrics.mean_squared_error(*arrays), sklearn.metrics.mean_absolute_error(*arrays)
    print(
        f"{prediction} and {target} in {dtype}: squared error {squared:,} (float32 {of_floats:,}, scikit-learn "
        f"{right[0]:,}), absolute error {absolute:,} (scikit-learn {right[1]:,})"
    )
    assert of_floats == right[0] == (prediction - target) ** 2
    found[prediction, target] = squared, absolute
assert found[200, 10] == (4, 190) and found[10, 200] == (4, 66), "the behavior has changed"
assert found[60_000, 0] == (60_000**2 - 2**32, 60_000), "the behavior has changed"
PY
