#!/usr/bin/env bash
# optax 0.2.8: inject_hyperparams rounds Adam's settings to the dtype of the parameters; with bfloat16 all becomes NaN.
#
# Expected: optax.inject_hyperparams(optax.adamw)(learning_rate, b2=0.999) updates as optax.adamw(learning_rate, b2=0.999)
#   does; it only makes the settings visible and changeable during the run.
# Observed: with bfloat16 parameters every setting becomes bfloat16, and 0.999, Adam's default, rounds to 1. The second
#   moment stays 0, its bias correction divides 0 by 0, and the first update makes every weight NaN. 0.95, as in GPT-3,
#   becomes 0.9492, a learning rate of 6e-4 becomes 5.989e-4. `hyperparam_dtype=jnp.float32` avoids it.
# Why it matters: this wrapper is the documented way to log or change the learning rate during a run. A GPT-2 whose
#   parameters are moved to bfloat16 to save memory is lost at its first step, and the optimizer looks innocent.
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
SETTINGS = {"learning_rate": 6e-4, "b2": 0.999}


def update(optimizer: optax.GradientTransformation, dtype: jnp.dtype) -> tuple[float, dict[str, float]]:
    """The first update of a weight 1 with a gradient 0.1, and the settings that the state shows."""
    weights, gradients = {"w": jnp.ones(4, dtype)}, {"w": jnp.full(4, 0.1, dtype)}
    updates, state = optimizer.update(gradients, optimizer.init(weights), weights)
    shown = getattr(state, "hyperparams", {})
    return float(updates["w"][0]), {name: float(shown[name]) for name in SETTINGS if name in shown}


values = {}
for dtype in (jnp.float32, jnp.bfloat16):
    cases = {
        "adamw": optax.adamw(**SETTINGS),
        "injected": optax.inject_hyperparams(optax.adamw)(**SETTINGS),
        "injected in float32": optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float32)(**SETTINGS),
    }
    for name, optimizer in cases.items():
        value, shown = update(optimizer, dtype)
        values[dtype.__name__, name] = value
        print(f"{dtype.__name__:>8} {name:<20} update {value:.4e}", shown)
finite = {case: bool(jnp.isfinite(value)) for case, value in values.items()}
assert [case for case in finite if not finite[case]] == [("bfloat16", "injected")], "the behavior has changed"
PY
