#!/usr/bin/env bash
# optax 0.2.8: adafactor's weight_decay_rate is not multiplied by the learning rate; 0.1 takes 10% of the weights a step.
#
# Expected: weight decay means the same in optax's optimizers: a step takes learning_rate x weight_decay of the weights,
#   as adamw, lion, lamb, adan and contrib.muon do, and Adafactor of Hugging Face. The learning-rate schedule scales it.
# Observed: in adafactor the decay is added after the learning rate. With a learning rate of 1e-3 and a decay of 0.1 it is
#   1000 times as strong, it is full during warm-up, and it stays when the schedule has reached 0. The docstring says
#   "Optional rate at which to decay weights" and no more.
# Why it matters: 0.1 is the weight decay of GPT-3 and of most GPT-2 recipes with AdamW. Taken over, it halves the weights
#   in 7 steps, and nothing becomes NaN or reports it. Write learning_rate x weight_decay, and know that it is constant.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math

import jax
import jax.numpy as jnp
import optax

STEPS, RATE, DECAY = 20, 1e-3, 0.1


def left(optimizer: optax.GradientTransformation) -> float:
    """What is left of weights of 1 after steps without a gradient."""
    params = jnp.ones((4, 4))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(STEPS):
        updates, state = update(jnp.zeros_like(params), state, params)
        params = optax.apply_updates(params, updates)
    return float(params[0, 0])


makers = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=DECAY),
    "lion": lambda rate: optax.lion(rate, weight_decay=DECAY),
    "contrib.muon": lambda rate: optax.contrib.muon(rate, weight_decay=DECAY),
    "adafactor": lambda rate: optax.adafactor(rate, weight_decay_rate=DECAY),
}
print("jax", jax.__version__, "optax", optax.__version__)
for name, make in makers.items():
    found = left(make(RATE)), left(make(lambda count: 0.0))
    print(f"{name}: {STEPS} steps leave {found[0]:.5f} at learning rate {RATE}, {found[1]:.5f} at learning rate 0")
    by_rate, alone = (1 - RATE * DECAY) ** STEPS, (1 - DECAY) ** STEPS
    expected = (alone, alone) if name == "adafactor" else (by_rate, 1)
    assert all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-4), found, expected)), "the behavior has changed"
PY
