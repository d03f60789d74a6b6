#!/usr/bin/env bash
# optax 0.2.8: one NaN gradient stays in MultiSteps for the rest of the run, also where the optimizer skips NaN.
#
# Expected: after k mini-steps "the wrapper's accumulated gradients are then set back to zero and the process starts
#   again", says the docstring. With an optimizer that tolerates NaN, a NaN mini-batch costs one of the steps.
# Observed: the accumulator is set back by a multiplication with 0, and 0 * NaN is NaN. MultiSteps(apply_if_finite(sgd,
#   3), 4) rejects every following step until its patience ends, and then makes the weights NaN, in the midst of the
#   mini-steps, as the update between two steps is 0 * update. MultiSteps(chain(zero_nans(), sgd), 4) never changes the
#   weights again: the run goes on with a finite loss and learns nothing. An infinite gradient does the same.
#   apply_if_finite outside, or should_skip_update_fn=skip_not_finite, is right. google-deepmind/optax#828 (closed) is
#   about zero_nans.
# Why it matters: accumulation is for large models on few devices, and apply_if_finite for runs in low precision, where
#   a NaN now and then is normal. The first one ends the training, and the log shows no NaN for as long as it is
#   rejected.
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

print("jax", jax.__version__, "optax", optax.__version__)
EVERY = 4
sgd = optax.sgd(0.25)
optimizers = {
    "apply_if_finite inside": optax.MultiSteps(optax.apply_if_finite(sgd, 3), EVERY),
    "zero_nans inside": optax.MultiSteps(optax.chain(optax.zero_nans(), sgd), EVERY),
    "apply_if_finite outside": optax.apply_if_finite(optax.MultiSteps(sgd, EVERY).gradient_transformation(), 3),
    "skip_not_finite": optax.MultiSteps(sgd, EVERY, should_skip_update_fn=optax.skip_not_finite),
}


def run(name: str, bad: float) -> list[float]:
    """The weight before and after each step of 4 mini-steps; the gradients are 1, but for the third one."""
    weight, state = jnp.ones(()), optimizers[name].init(jnp.ones(()))
    update, weights = jax.jit(optimizers[name].update), [1.0]
    for mini_step in range(6 * EVERY + 1):
        change, state = update(jnp.asarray(bad if mini_step == 2 else 1.0), state, weight)
        weight = optax.apply_updates(weight, change)
        if mini_step % EVERY == EVERY - 1:
            weights.append(float(weight))
    return weights


for bad in (math.nan, math.inf):
    found = {name: run(name, bad) for name in optimizers}
    for name, weights in found.items():
        print(f"{bad} in the third mini-step, {name}: {weights}")
    inside = found["apply_if_finite inside"]
    assert inside[:4] == [1.0] * 4 and all(map(math.isnan, inside[4:])), "the behavior has changed"
    if math.isnan(bad):
        assert found["zero_nans inside"] == [1.0] * 7, "the behavior has changed"
    for name in ("apply_if_finite outside", "skip_not_finite"):
        assert found[name][-1] < 0 and found[name] == sorted(found[name], reverse=True), name
PY
