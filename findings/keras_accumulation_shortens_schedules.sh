#!/usr/bin/env bash
# keras 3.15.1: with gradient_accumulation_steps=4 a schedule over 10 updates is at 0 after two and a half.
#
# Expected: learning rates are a matter of updates: the first one has the first rate of the schedule, and 10 updates
#   reach its end, as optimizer.iterations counts them: with accumulation it is the number of batches divided by 4.
# Observed: the schedule is asked with the number of batches, which is kept beside it. Of PolynomialDecay(1, 10, 0)
#   the updates have the rates 0.7, 0.3 and then 0; the rates 1.0, 0.9, 0.8 are never used. Adam's correction, by
#   contrast, goes by updates.
# Why it matters: accumulation is there to give the same training with less memory. Here warm-up takes a quarter of
#   its updates, and after a quarter of the training the learning rate is 0 or at its minimum for the rest, without a
#   word: the loss just stops falling.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q keras==3.15.1 jax==0.10.1 numpy==2.4.6
KERAS_BACKEND=jax KERAS_HOME="$folder" JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import keras
import numpy as np

print("keras", keras.__version__, "backend", keras.backend.backend())


def updates(accumulation: int | None, count: int) -> tuple[list[float], int]:
    """The sizes of the updates of SGD, for a gradient of 1, and the count of the optimizer."""
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=accumulation)
    variable = keras.Variable(np.zeros(1, "float32"))
    optimizer.build([variable])
    values = [0.0]
    for batch in range(count * (accumulation or 1)):
        optimizer.apply([np.ones(1, "float32")], [variable])
        if accumulation is None or batch % accumulation == accumulation - 1:
            values.append(float(variable.value[0]))
    return (-np.diff(values)).round(3).tolist(), int(optimizer.iterations)


plain, count = updates(None, 10)
print("every batch an update:", plain, "iterations:", count)
assert np.allclose(plain, np.arange(10, 0, -1) / 10) and count == 10
found, count = updates(4, 10)
print("4 batches an update:", found, "iterations:", count)
assert count == 10
assert np.allclose(found, [0.7, 0.3, *[0.0] * 8]), "the behavior has changed"
PY
