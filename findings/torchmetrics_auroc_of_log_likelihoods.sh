#!/usr/bin/env bash
# torchmetrics 1.9.0: the AUROC of scores that separate both classes perfectly is 0.5 if they are log-likelihoods.
#
# Expected: AUROC and average precision depend on the order of the scores only. scikit-learn gives 1.0 for any scale.
# Observed: scores outside of 0 to 1 are taken for logits and put through a sigmoid in float32, as the documentation
#   says; what it does not say is that the order is lost by it. Below -104 all become 0, above 17 all become 1, and
#   between they run together: values from 50 to 80 have an AUROC of 0.5, that of a coin. Whether it happens to a
#   batch depends on whether one of its scores is outside of 0 to 1, so parts of one data set are treated differently.
# Why it matters: log-likelihoods of documents and sums of log-probabilities, -300 to -100 for a short text, are the
#   scores by which language models detect, rank and filter. The result says that the model cannot tell anything
#   apart. Give ranks, or scores scaled to 0 to 1.
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
from torchmetrics.functional import auroc, average_precision

print({name: version(name) for name in ("torchmetrics", "torch", "scikit-learn")})
labels = torch.tensor([0, 0, 0, 1, 1, 1])
cases = {
    "probabilities": [0.1, 0.2, 0.3, 0.6, 0.7, 0.8],
    "small logits": [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0],
    "log-likelihoods": [-300.0, -290.0, -280.0, -130.0, -120.0, -110.0],
    "large scores": [50.0, 55.0, 60.0, 70.0, 75.0, 80.0],
}
found = {}
for name, scores in cases.items():
    found[name] = float(auroc(torch.tensor(scores), labels, task="binary"))
    precision = float(average_precision(torch.tensor(scores), labels, task="binary"))
    right = sklearn.metrics.roc_auc_score(labels, scores)
    print(f"{name} {scores}: AUROC {found[name]}, average precision {precision}, scikit-learn's AUROC {right}")
    assert right == 1
assert found["probabilities"] == found["small logits"] == 1
assert found["log-likelihoods"] == found["large scores"] == 0.5, "the behavior has changed"
PY
