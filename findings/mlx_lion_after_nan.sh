#!/usr/bin/env bash
# mlx 0.32.4: after one NaN gradient, Lion never changes that weight again, and no weight is ever NaN.
#
# Expected: the sign of NaN is NaN, as in NumPy, PyTorch and JAX, so that a NaN gradient shows in the weights and in
#   the next loss, as with MLX's own Adam and SGD.
# Observed: mx.sign(NaN) is 0. Lion's step is the sign of its momentum, which is NaN from then on, so the step is 0
#   for ever. Weights and losses stay finite. With weight decay the weight shrinks to 0.
# Why it matters: one overflow in one batch freezes every parameter that it reached, in a deep model nearly all of
#   them, and the loss curve merely turns flat. A check for NaN in the loss or in the weights, which ends such a run
#   with other optimizers, finds nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q "mlx[cpu]==0.32.4" numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

mx.set_default_device(mx.cpu)
print("mlx", version("mlx"), "sign of NaN:", mx.sign(mx.array(float("nan"))).item(), "NumPy:", np.sign(np.nan))
GRADIENTS = [[1.0, 1.0], [float("nan"), 1.0], *[[1.0, 1.0]] * 20]


def train(optimizer: optimizers.Optimizer) -> list[list[float]]:
    """Two weights after each step; the first one has a NaN gradient in step 2."""
    parameters, found = {"w": mx.array([1.0, 1.0])}, []
    for gradient in GRADIENTS:
        parameters = optimizer.apply_gradients({"w": mx.array(gradient)}, parameters)
        found.append(parameters["w"].tolist())
    return found


lion = train(optimizers.Lion(0.01))
others = {"Adam": train(optimizers.Adam(0.01)), "SGD": train(optimizers.SGD(0.01, momentum=0.9))}
print("Lion:", [np.round(lion[i], 3).tolist() for i in (0, 1, 2, -1)])
for name, found in others.items():
    print(f"{name}:", [np.round(found[i], 3).tolist() for i in (0, 1, 2, -1)])
    assert np.isnan(found[-1][0])
assert np.isfinite(lion).all() and {step[0] for step in lion} == {lion[0][0]}, "the behavior has changed"
assert lion[-1][1] < 0.8
assert mx.sign(mx.array(float("nan"))).item() == 0, "the behavior has changed"
PY
