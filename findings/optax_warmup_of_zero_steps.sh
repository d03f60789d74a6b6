#!/usr/bin/env bash
# optax 0.2.8: with warmup_steps=0 warmup_constant_schedule is 0 for ever; the cosine schedule begins with its peak.
#
# Expected: without steps of warm-up the learning rate is its peak from the first step.
# Observed: warmup_constant_schedule(0, peak, warmup_steps=0) stays at 0, and contrib.schedule_free_adamw and
#   schedule_free_sgd with warmup_steps=0 change no parameter in any number of steps. warmup_cosine_decay_schedule,
#   warmup_exponential_decay_schedule and sgdr_schedule with warmup_steps=0 begin with the peak. The docstrings ask for
#   a positive integer, also where 0 works, and nothing refuses 0. The cause is documented in linear_schedule, of which
#   the first is made: with transition_steps <= 0 the value is held at init_value. It is logged at absl's level "info",
#   which is not shown by default. The same holds for a decay: linear_schedule(peak, 0, 0) stays at the peak.
# Why it matters: a sweep over lengths of warm-up usually has 0 in it, and a percentage of a short run rounds to 0. The
#   loss of such a run stays where it began, which looks as if warm-up were needed. A test with the cosine schedule
#   passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax.numpy as jnp
import optax

print("optax", optax.__version__)
PEAK, STEPS = 0.125, (0, 1, 100)
rates, trained = {}, {}
for warmup in (0, 1):
    cycle = {"init_value": 0.0, "peak_value": PEAK, "warmup_steps": warmup, "decay_steps": 1000}
    schedules = {
        "warmup_constant": optax.warmup_constant_schedule(0.0, PEAK, warmup),
        "warmup_cosine_decay": optax.warmup_cosine_decay_schedule(0.0, PEAK, warmup, 1000),
        "warmup_exponential_decay": optax.warmup_exponential_decay_schedule(0.0, PEAK, warmup, 1000, 0.5),
        "sgdr": optax.sgdr_schedule([cycle]),
    }
    for name, schedule in schedules.items():
        rates[name, warmup] = [round(float(schedule(step)), 3) for step in STEPS]
        print(f"{name}_schedule, warmup_steps={warmup}: {rates[name, warmup]} at the steps {STEPS}")
    for name in ("schedule_free_adamw", "schedule_free_sgd"):
        optimizer = getattr(optax.contrib, name)(PEAK, warmup_steps=warmup)
        parameters = jnp.ones(4)
        state = optimizer.init(parameters)
        for _ in range(20):
            updates, state = optimizer.update(2 * parameters, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        trained[name, warmup] = float(optax.contrib.schedule_free_eval_params(state, parameters)[0])
        print(f"{name}, warmup_steps={warmup}: 1.0 is {trained[name, warmup]:.3f} after 20 steps down x**2")
decay = [float(optax.linear_schedule(PEAK, 0.0, 0)(step)) for step in STEPS]
print("linear_schedule, from the peak to 0 in 0 steps:", decay)
assert rates["warmup_constant", 0] == [0, 0, 0] and rates["warmup_constant", 1] == [0, PEAK, PEAK], "it has changed"
assert all(rates[name, 0][0] == PEAK for name in schedules if name != "warmup_constant"), "it has changed"
for name in ("schedule_free_adamw", "schedule_free_sgd"):
    assert trained[name, 0] == 1.0 and trained[name, 1] < 0.9, "the behavior has changed"
assert decay == [PEAK] * 3, "the behavior has changed"
PY
