#!/usr/bin/env bash
# mlxtend 0.25.0 and statsmodels 0.15.0: McNemar's test of two models that give the same answers has a p-value of 0.
#
# Expected: 1, or NaN. If no item is answered differently there is nothing that speaks for a difference; the exact
#   test of both libraries, exact=True, gives 1.
# Observed: with the correction for continuity, the default, the statistic is (|0 - 0| - 1)^2 / 0, which is inf, and
#   its p-value is 0: the most significant difference that there can be. Without the correction it is 0 / 0 and NaN.
#   mlxtend takes this way by default (exact=False), statsmodels with exact=False, as one does for large test sets.
#   One item that only one model has right gives a p-value of 1, so the values jump from 0 to 1. NumPy warns of a
#   division by zero.
# Why it matters: comparing checkpoints of a GPT-2 on a multiple-choice task often gives equal answers, for a task
#   that is all chance or all solved, or for a run that was restored. The table of significant differences starts with
#   them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q mlxtend==0.25.0 statsmodels==0.15.0 scipy==1.17.1 \
  numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import statsmodels.stats.contingency_tables as statsmodels
from mlxtend.evaluate import mcnemar, mcnemar_table

print({name: version(name) for name in ("mlxtend", "statsmodels", "scipy", "numpy")})
truth = np.array([0, 1, 2, 3] * 25)
first = np.where(np.arange(100) < 60, truth, (truth + 1) % 4)
second = first.copy()
second[0] = 1
for name, other in (("the same answers", first), ("one answer differs", second)):
    table = mcnemar_table(truth, first, other)
    found = {
        "mlxtend": mcnemar(table)[1],
        "mlxtend, exact": mcnemar(table, exact=True)[1],
        "statsmodels": statsmodels.mcnemar(table, exact=False).pvalue,
        "statsmodels, exact": statsmodels.mcnemar(table).pvalue,
        "statsmodels, no correction": statsmodels.mcnemar(table, exact=False, correction=False).pvalue,
    }
    found = {way: float(value) for way, value in found.items()}
    print(f"{name}, table {table.tolist()}: p-values {found}")
    assert found["mlxtend, exact"] == found["statsmodels, exact"] == 1
    expected = 0 if other is first else 1
    assert found["mlxtend"] == found["statsmodels"] == expected, "the behavior has changed"
    assert np.isnan(found["statsmodels, no correction"]) == (other is first), "the behavior has changed"
PY
