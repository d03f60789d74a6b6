#!/usr/bin/env bash
# Optuna 5.0.0: the MedianPruner compares a trial only with trials that reported at exactly the same step.
#
# Expected: a trial that is 3 nats worse than all earlier trials at every point of training is pruned, whatever the steps
#   at which its losses were reported, as curves can be compared between reports.
# Observed: if earlier trials reported at steps 100, 200, ... and this one at 150, 250, ..., it is never pruned: no trial
#   has its step, so no median exists and should_prune() is False without a warning. `interval_steps` does not help. The
#   same trial reporting at 100, 200, ... is pruned at its first report.
# Why it matters: searches over the batch size that report tokens as the step, or over the steps between evaluations, run
#   every trial to its end. Report at steps that all trials share.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0
cat > "$work/check.py" <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def last_step(offset: int, **options) -> int:
    """The last report of a trial 3 nats above five earlier ones, all on the same falling curve."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=5, **options))
    for number in range(6):
        is_bad = number == 5
        trial = study.ask()
        for step in range(100 + offset * is_bad, 1001, 100):
            trial.report(10 - step / 200 + 3 * is_bad, step)
            if trial.should_prune():
                return step
        study.tell(trial, 5.0)
    return step


print("optuna", optuna.__version__)
same, other, interval = last_step(0), last_step(50), last_step(50, interval_steps=100)
print(f"reports at the same steps: pruned at step {same}")
print(f"reports 50 steps later: not pruned up to step {other}; with interval_steps=100: up to {interval}")
assert (same, other, interval) == (100, 950, 950)
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
