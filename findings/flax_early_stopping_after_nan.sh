#!/usr/bin/env bash
# flax 0.12.8: after one NaN, EarlyStopping takes losses of 3, 2 and 1 for no improvement, and stops the training.
#
# Expected: NaN is never the best metric; the first number after it is better, or at least a fall from 3 to 1 counts. At
#   the start best_metric is inf, so that any number is an improvement.
# Observed: the first metric is taken whatever it is; if it is NaN, best_metric is NaN for good, as no difference from
#   NaN is larger than min_delta, and has_improved stays False while the loss falls. With patience=2 should_stop is set
#   at the third number. has_improved was True for the NaN itself, the usual sign to save "the best" weights. A NaN
#   later in the run only counts as no improvement. Two or more of inf in a row count as improvements each, and reset
#   the patience. The documentation has no word on NaN or inf.
# Why it matters: the first evaluation is the one at risk, in float16 or before the loss scale has settled, and a run
#   that recovered is ended by its third evaluation, with a checkpoint of the NaN as the best one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q flax==0.12.8 jax==0.10.1 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

from flax.training.early_stopping import EarlyStopping

print("flax", version("flax"))


def updates(metrics: list[float]) -> list[EarlyStopping]:
    """The states after each of the metrics."""
    state, states = EarlyStopping(patience=2), []
    for metric in metrics:
        state = state.update(metric)
        states.append(state)
    print(metrics, "improved:", [each.has_improved for each in states], "stop:", [each.should_stop for each in states])
    return states


first = updates([math.nan, 3.0, 2.0, 1.0])
assert [each.has_improved for each in first] == [True, False, False, False], "the behavior has changed"
assert first[-1].should_stop and math.isnan(first[-1].best_metric), "the behavior has changed"
later = updates([3.0, math.nan, 2.0, 1.0])
assert [each.has_improved for each in later] == [True, False, True, True] and not later[-1].should_stop
infinite = updates([math.inf] * 5)
assert all(each.has_improved for each in infinite) and not infinite[-1].should_stop, "the behavior has changed"
right = updates([4.0, 3.0, 2.0, 1.0])
assert all(each.has_improved for each in right) and not right[-1].should_stop
PY
