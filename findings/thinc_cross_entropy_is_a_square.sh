#!/usr/bin/env bash
# thinc 9.1.1: the loss of CategoricalCrossentropy is the sum of the squared gradient, not a cross entropy.
#
# Expected: -log of the probability of the right class, 0.36 for 0.7: the class is named so, and the documentation
#   gives "the loss" for get_loss.
# Observed: get_loss gives the sum of (guess - truth)^2, by default divided by the square of the number of rows: 0.14
#   for such a row, and 0.014 for ten of them. A right class with probability 0 costs at most 2 instead of infinity.
#   SequenceCategoricalCrossentropy does the same, and exp(loss) is no perplexity. The gradient, get_grad, is that of
#   the cross entropy, so training works.
# Why it matters: programs that plot this loss, stop by it, or compare it with that of another library, have another
#   quantity: a model that is sure and wrong looks as good as one that guesses, and losses of different batch sizes
#   cannot be compared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q thinc==9.1.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from thinc.api import CategoricalCrossentropy, SequenceCategoricalCrossentropy

print("thinc", version("thinc"), "numpy", np.__version__)
for probabilities, rows in (([0.7, 0.2, 0.1], 1), ([0.7, 0.2, 0.1], 10), ([1e-30, 0.5, 0.5], 1), ([1e-3, 0.5, 0.5], 1)):
    guesses = np.tile(np.array([probabilities], np.float32), (rows, 1))
    truths = np.zeros(rows, int)
    entropy = -np.log(guesses[:, 0])
    square = ((guesses - np.eye(3)[truths]) ** 2).sum()
    mean = float(CategoricalCrossentropy().get_loss(guesses, truths))
    total = float(CategoricalCrossentropy(normalize=False).get_loss(guesses, truths))
    sequence = float(SequenceCategoricalCrossentropy(normalize=False).get_loss([guesses], [truths]))
    print(f"{rows} rows {probabilities}: mean cross entropy {entropy.mean():.4f}, sum {entropy.sum():.4f}; get_loss "
          f"{mean:.4f}, with normalize=False {total:.4f}, of a sequence {sequence:.4f}; sum of squares {square:.4f}")
    assert np.isclose(total, square) and np.isclose(sequence, square), "the behavior has changed"
    assert np.isclose(mean, square / rows**2), "the behavior has changed"
PY
