#!/usr/bin/env bash
# awkward 2.14.0: ak.softmax of the scores [1000, 0] is [nan, 0], and of [-1000, -1001] it is [nan, nan].
#
# Expected: [1, 0] and [0.73, 0.27]: softmax does not change when a number is added to all scores, and SciPy, JAX and
#   PyTorch take the largest away first, so that it is defined for all finite scores.
# Observed: exp(x) / sum(exp(x)) as it stands, which is inf / inf from 710 on, or 89 in float32, and 0 / 0 below -745.
#   The documentation gives that formula, and says nothing of the range that it is good for. float32 scores of -110 and
#   -111, common sums of log-probabilities of a sentence, are NaN already.
# Why it matters: lists of different lengths, such as the candidates of each question, are what Awkward arrays are for.
#   A softmax over sums of log-probabilities is NaN just for the longer answers, and any reduction that skips NaN, or an
#   argmax, hides it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q awkward==2.14.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import warnings

import awkward as ak
import numpy as np
import scipy.special

print("awkward", ak.__version__, "numpy", np.__version__)
warnings.simplefilter("ignore")
for dtype, scores, wrong in (
    ("float64", [1000, 0], True),
    ("float64", [-1000, -1001], True),
    ("float64", [3, 2, 1], False),
    ("float32", [-110, -111, -112], True),
    ("float32", [100, 99], True),
):
    row = np.array(scores, dtype)
    lists = ak.unflatten(np.append(row, row[:1]), [len(row), 1])
    found = ak.softmax(lists, axis=-1).tolist()[0]
    right = scipy.special.softmax(row)
    print(f"{dtype} {scores}: {np.round(found, 3).tolist()}, SciPy {right.astype(float).round(3).tolist()}")
    assert np.isnan(found).any() == wrong and np.isfinite(right).all(), "the behavior has changed"
    assert wrong or np.allclose(found, right)
PY
