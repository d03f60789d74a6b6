#!/usr/bin/env bash
# optax 0.2.8: contrib.reduce_on_plateau never reduces for a loss of -10, and always for bfloat16 parameters.
#
# Expected: after `patience` values without an improvement by rtol the scale is multiplied by `factor`, whatever the
#   sign of the value and the type of the parameters. A value that gets worse is no improvement.
# Observed: the best value so far is compared as (1 - rtol) * best. For best = -10 and rtol = 1e-4 that is -9.999: the
#   same -10 again is "better", each time, so the plateau is never seen. A value that gets worse by less than rtol a
#   step becomes the new best, and a loss that climbs from -10 to -9.1 in a thousand steps keeps its learning rate.
#   For positive values it works. And the best value has the type of the parameters: of bfloat16 ones a loss near 3 is
#   rounded to steps of 0.016, so a loss that goes down by 0.001 a step seems to stand still for 16 of them. The scale
#   goes to 0 while the loss improves; float32 parameters keep it at 1.
# Why it matters: negative losses are log-densities, contrastive objectives, and negated scores such as -accuracy. For
#   GPT-2 in bfloat16 the training stops to learn, and the loss curve then looks like the plateau.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

print("jax", jax.__version__, "optax", optax.__version__)


def scale(losses: list[float], dtype=jnp.float32) -> float:
    """The scale of the updates after all losses."""
    optimizer = optax.contrib.reduce_on_plateau(factor=0.5, patience=5, rtol=1e-4)
    weight = jnp.ones((), dtype)
    state, update = optimizer.init(weight), jax.jit(lambda state, loss: optimizer.update(weight, state, value=loss)[1])
    for loss in losses:
        state = update(state, loss)
    return float(state.scale)


falling = [3 - 0.001 * step for step in range(400)]
found = {
    "10, constant": scale([10.0] * 30),
    "-10, constant": scale([-10.0] * 30),
    "-10 to -9.1, getting worse": scale([-10 + 0.0009 * step for step in range(1000)]),
    "3.0 to 2.6, float32 parameters": scale(falling),
    "3.0 to 2.6, bfloat16 parameters": scale(falling, jnp.bfloat16),
}
for name, result in found.items():
    print(f"{name}: updates * {result}")
assert found["10, constant"] < 0.1 and found["3.0 to 2.6, float32 parameters"] == 1
assert found["-10, constant"] == found["-10 to -9.1, getting worse"] == 1, "the behavior has changed"
assert found["3.0 to 2.6, bfloat16 parameters"] < 1e-6, "the behavior has changed"
PY
