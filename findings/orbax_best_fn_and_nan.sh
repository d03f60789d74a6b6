#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: one NaN among the losses, and "keep the best 2" deletes the best checkpoint.
#
# Expected: a checkpoint whose loss is NaN counts as the worst one and is deleted first. The documentation of best_fn,
#   best_mode and BestN says nothing of NaN. At least the others are kept in their right order.
# Observed: the losses go through Python's sorted(), and every comparison with NaN is False, so NaN splits the list into
#   parts that are sorted by themselves. Of the losses 3, 1, NaN, 5, 4 the best two with best_mode="min" are 5 and 4;
#   the checkpoint with 1 is deleted from the disk. Where the NaN comes last, it is kept, and best_step() names it.
#   save() returns True. BestN of the new API (v1) does the same. With infinity in NaN's place all is right.
# Why it matters: the best checkpoint is kept for the day the loss becomes NaN. That day the checkpoint with the NaN is
#   called the best one, or the best one is gone. Let best_fn return infinity for NaN, or minus infinity where more is
#   better.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/runs" <<'PY'
import itertools
import logging
import math
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
print("orbax-checkpoint", version("orbax-checkpoint"))
RUNS = (Path(sys.argv[1]) / str(number) for number in itertools.count())


def manager(losses: list[float]) -> tuple[list[float], float]:
    """The losses of the checkpoints that CheckpointManager keeps, and the loss of its best step."""
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"], best_mode="min", max_to_keep=2)
    with ocp.CheckpointManager(next(RUNS), options=options) as checkpoints:
        for step, loss in enumerate(losses):
            arguments = ocp.args.StandardSave({"weights": jnp.ones(1)})
            assert checkpoints.save(step, args=arguments, metrics={"loss": loss})
        checkpoints.wait_until_finished()
        return [losses[step] for step in checkpoints.all_steps()], losses[checkpoints.best_step()]


def v1(losses: list[float]) -> list[float]:
    """The losses of the checkpoints that the new API's Checkpointer keeps."""
    training = ocp.v1.training
    best = training.preservation_policies.BestN(n=2, get_metric_fn=lambda metrics: metrics["loss"], reverse=True)
    with training.Checkpointer(next(RUNS), preservation_policy=best) as checkpoints:
        for step, loss in enumerate(losses):
            checkpoints.save_pytree(step, {"weights": jnp.ones(1)}, metrics={"loss": loss})
        return [losses[checkpoint.step] for checkpoint in checkpoints.checkpoints]


for bad in (math.inf, math.nan):
    for losses in ([3.0, 1.0, bad, 5.0, 4.0], [3.0, 1.0, 2.0, 5.0, bad]):
        kept, best = manager(losses)
        new = v1(losses)
        print(f"{losses}: kept {kept}, best {best}; v1 kept {sorted(new)}")
        assert {*map(str, new)} == {*map(str, kept)}, "the two differ"
        if bad == math.inf:
            assert sorted(kept) == [1.0, sorted(losses)[1]] and best == 1.0
        elif math.isnan(losses[-1]):
            assert any(map(math.isnan, kept)) and math.isnan(best), "the behavior has changed"
        else:
            assert kept == [5.0, 4.0] and best == 4.0, "the behavior has changed"
PY
