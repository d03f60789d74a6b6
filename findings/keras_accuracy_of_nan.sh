#!/usr/bin/env bash
# keras 3.15.1: a model whose logits are all NaN, or all equal, has a top-5 accuracy of 100%.
#
# Expected: NaN is no right answer, and among 1,000 equal scores the right class is one of five in 0.5% of all cases.
# Observed: SparseTopKCategoricalAccuracy and TopKCategoricalAccuracy count an answer as right unless more than k
#   classes have a larger score. Nothing is larger than NaN or than an equal score, so every label counts, for any k
#   from 1 on. SparseCategoricalAccuracy takes the first class of NaN, so that it is the share of class 0.
# Why it matters: the metric of a run that has broken down rises to its maximum. ModelCheckpoint with save_best_only
#   and this metric keeps exactly the broken weights, and overwrites the best ones with them. A freshly begun model
#   with a zero output layer, too, starts with 100% and never gets better.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q keras==3.15.1 jax==0.10.1 numpy==2.4.6
KERAS_BACKEND=jax KERAS_HOME="$folder" JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import keras
import numpy as np

print("keras", keras.__version__, "backend", keras.backend.backend())
CLASSES = 1000
labels = np.arange(CLASSES)
scores = {
    "different": np.random.default_rng(0).normal(size=(CLASSES, CLASSES)),
    "equal": np.zeros((CLASSES, CLASSES)),
    "NaN": np.full((CLASSES, CLASSES), np.nan),
}
found = {}
for name, values in scores.items():
    for k in (1, 5):
        sparse, one_hot = keras.metrics.SparseTopKCategoricalAccuracy(k=k), keras.metrics.TopKCategoricalAccuracy(k=k)
        sparse.update_state(labels, values.astype("float32"))
        one_hot.update_state(np.eye(CLASSES), values.astype("float32"))
        found[name, k] = float(sparse.result()), float(one_hot.result())
        print(f"{name} scores, k={k}: accuracy {found[name, k]}")
assert max(found["different", 5]) < 0.02
for name in ("equal", "NaN"):
    for k in (1, 5):
        assert found[name, k] == (1.0, 1.0), "the behavior has changed"
PY
