"""Keeps the weights with the lowest evaluation loss in RUN/best: the key `keep_best`."""

import math
from collections.abc import Callable
from typing import Any

from estimator import storage
from estimator.parallel import distributed
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import NOT_SAVED, Checkpoints
from estimator.training.train_step import TrainState

BEST = "best"


def kept(run: str) -> dict[int, str]:
    """The steps of the weights in RUN/best, of which a kill may leave two, and their folders."""
    paths = {path.rpartition("/")[2]: path for path in storage.children(storage.join(run, BEST), "[0-9]*")}
    return {int(name): path for name, path in paths.items() if name.isdigit()}


def forget_later(run: str, step: int) -> list[str]:
    """Removes kept weights of steps after `step`, from which the run was taken back; returns a line for each."""
    later = [path for at, path in kept(run).items() if at > step]
    for path in later:
        storage.remove(path)
    return [f"removed {path}: the run continues from step {step}, and has no such step any more" for path in later]


class BestWeights:
    """The checkpoint in RUN/best: step and parameters, without the optimizer's state.

    Each has a checkpoint of the whole state in the run, which is on disk first. So a run that was killed in between
    finds it there at its next start, and continues from no step before it.
    """

    def __init__(self, run: str, checkpoints: Checkpoints, *, guard: Callable[[], None] | None):
        """checkpoints: of the run. guard: as for `Checkpoints`.

        loss: of the evaluation of the kept weights; infinite without one on the windows evaluated now.
        """
        self._folder = storage.join(run, BEST)
        self._run = checkpoints
        self._best = Checkpoints(self._folder, writer=True, guard=guard, keep_last=1)
        self.loss = math.inf

    @property
    def step(self) -> int | None:
        """Step of the kept weights."""
        return self._best.latest_step

    def __str__(self) -> str:
        """Names the weights where they were evaluated on the windows evaluated now, or is ""."""
        is_known = math.isfinite(self.loss)
        return f"RUN/best has the weights of step {self.step} (eval loss {self.loss:.4f})" if is_known else ""

    def keep(self, step: int, state: TrainState, *, loss: float) -> None:
        """Replaces the kept weights by these, once the run's checkpoint of the step is on disk. A collective."""
        self.loss = loss
        if step not in self._best.steps:
            self._run.wait()
            self._best.protected.steps.clear()
            self._best.protected.steps.add(step)
            self._best.save(step, {"step": state.step, "params": state.params})
            self._best.wait()
        for other in set(self._best.steps) - {step}:
            if distributed.is_first():
                storage.remove(storage.join(self._folder, str(other)))

    def restore(self, step: int, template: TrainState, losses: dict[int, float]) -> None:
        """Keeps the run's checkpoint of a step, after a kill before `keep` had ended, or when the key is new.

        losses: of the evaluated steps. The step may have been saved before the lowest one, and have a higher loss than
        the kept weights, which then stay.
        """
        kept, loss = self._best.steps, losses.get(step, math.inf)
        self.loss = losses.get(max(kept, default=0), math.inf)
        if step in self._run.steps and kept != [step] and (not kept or not loss > self.loss):
            parts: dict[str, Any] = dict.fromkeys(template.parts(), NOT_SAVED)
            weights = {"step": template.step, "params": template.params}
            state = restore(self._run, parts | weights, step=step)
            self.keep(step, template._replace(step=state["step"], params=state["params"]), loss=loss)

    def close(self) -> None:
        self._best.close()
