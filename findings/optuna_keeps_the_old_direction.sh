#!/usr/bin/env bash
# Optuna 5.0.0: create_study(direction="maximize", load_if_exists=True) of an existing study goes on minimizing.
#
# Expected: a study that is opened for maximizing maximizes, or an error says that it was made for minimizing, as Optuna
#   raises one for a name that exists, and for a parameter whose choices differ from those of earlier trials.
# Observed: the direction of the call is ignored without a warning; direction and directions are taken only where the
#   study is new. best_trial is then the worst one, the sampler searches there, and pruners stop the best trials. Even
#   another number of directions is ignored: the objective that returns two values fails at its first trial.
# Why it matters: load_if_exists is how a search is resumed, or shared by processes. One that was first made without a
#   direction, or whose metric changes from loss to accuracy, or whose second script lacks the argument, reports the
#   worst learning rate of a GPT-2 sweep as the best. Compare study.direction after the call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q optuna==5.0.0
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import warnings

import optuna

print("optuna", optuna.__version__)
STORAGE = f"sqlite:///{sys.argv[1]}/studies.db"
optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.create_study(study_name="sweep", storage=STORAGE)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    study = optuna.create_study(
        study_name="sweep",
        storage=STORAGE,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
    )
print("asked for maximize, got", study.direction.name, "with", len(found), "warnings")
study.optimize(lambda trial: -((trial.suggest_float("learning_rate", 0, 1) - 0.5) ** 2), n_trials=60)
values = [trial.value for trial in study.trials]
chosen = study.best_params["learning_rate"]
print(f"accuracy is highest at 0.5; the best of {len(values)} trials by Optuna: {chosen:.3f}")
assert not found and study.direction == optuna.study.StudyDirection.MINIMIZE, "the behavior has changed"
assert study.best_value == min(values) < max(values) and abs(chosen - 0.5) > 0.4, "the behavior has changed"
new = optuna.create_study(study_name="new", storage=STORAGE, direction="maximize", load_if_exists=True)
assert new.direction == optuna.study.StudyDirection.MAXIMIZE
PY
