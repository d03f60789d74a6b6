#!/usr/bin/env bash
# MLstatkit 0.1.91: DeLong's test of a model against itself has a p-value of 0.
#
# Expected: two models with the same scores, or one whose scores are those of the other one times 2, have the same AUC
#   in every sample; nothing speaks for a difference, and p is 1 or NaN. "A two-sided p-value is reported, aligned
#   with R pROC::roc.test", says the docstring, and pROC gives 1.
# Observed: (0.0, 0.0), "z = 0, p = 0". The variance of the difference is 0, so the test resamples, and the p-value is
#   0 as no resampled difference varies, also where none differs from 0. Scores that differ in one pair have p > 0.2.
# Why it matters: a pipeline that compares checkpoints meets equal ones: the same file twice, or scores that were only
#   calibrated. p < 0.05 is all that is looked at, and says "significantly different" there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q MLstatkit==0.1.91 numpy==2.4.6 scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score

print("MLstatkit", version("MLstatkit"))
generator = np.random.default_rng(0)
labels = generator.integers(0, 2, 200)
scores = labels * 0.3 + generator.random(200)
swapped = scores.copy()
order = np.argsort(scores)
low, high = next(pair for pair in zip(order[90:], order[91:]) if labels[pair[0]] != labels[pair[1]])
swapped[[low, high]] = scores[[high, low]]
others = labels * 0.3 + generator.random(200)
for name, other, expected in [
    ("itself", scores, 0),
    ("its scores times 2", scores * 2, 0),
    ("one with two scores exchanged", swapped, None),
    ("another one", others, None),
]:
    z, p = Delong_test(labels, scores, other, return_ci=False, return_auc=False)
    print(f"a model and {name}: AUC {roc_auc_score(labels, scores):.4f} {roc_auc_score(labels, other):.4f}, {z=} {p=}")
    if expected is None:
        assert p > 0.2
    else:
        assert roc_auc_score(labels, scores) == roc_auc_score(labels, other)
        assert (z, p) == (0, expected), "the behavior has changed"
PY
