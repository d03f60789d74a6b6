"""Keeps the weights with the lowest evaluation loss in RUN/best: the key `keep_best`."""

from collections.abc import Callable
from typing import Any

from estimator import storage
from estimator.parallel import distributed
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import NOT_SAVED, Checkpoints
from estimator.training.train_step import TrainState

BEST = "best"


def forget_later(run: str, step: int) -> list[str]:
    """Removes kept weights of steps after `step`, from which the run was taken back; returns a line for each."""
    folder = storage.join(run, BEST)
    names = [path.rpartition("/")[2] for path in storage.children(folder, "[0-9]*")]
    later = [storage.join(folder, name) for name in names if name.isdigit() and int(name) > step]
    for path in later:
        storage.remove(path)
    return [f"removed {path}: the run continues from step {step}, and has no such step any more" for path in later]


class BestWeights:
    """The checkpoint in RUN/best: step and parameters, without the optimizer's state.

    Each has a checkpoint of the whole state in the run, which is on disk first. So a run that was killed in between
    finds it there at its next start, and continues from no step before it.
    """

    def __init__(self, run: str, checkpoints: Checkpoints, *, guard: Callable[[], None] | None):
        """checkpoints: of the run. guard: as for `Checkpoints`."""
        self._folder = storage.join(run, BEST)
        self._run = checkpoints
        self._best = Checkpoints(self._folder, writer=True, guard=guard, keep_last=1)

    def keep(self, step: int, state: TrainState) -> None:
        """Replaces the kept weights by these, once the run's checkpoint of the step is on disk. A collective."""
        if self._best.steps == [step]:
            return
        self._run.wait()
        self._best.protected.steps.clear()
        self._best.protected.steps.add(step)
        self._best.save(step, {"step": state.step, "params": state.params})
        self._best.wait()
        for other in set(self._best.steps) - {step}:
            if distributed.is_first():
                storage.remove(storage.join(self._folder, str(other)))

    def restore(self, step: int, template: TrainState) -> None:
        """Keeps the run's checkpoint of a step, after a kill before `keep` had ended, or when the key is new."""
        if step in self._run.steps and self._best.steps != [step]:
            parts: dict[str, Any] = dict.fromkeys(template.parts(), NOT_SAVED)
            weights = {"step": template.step, "params": template.params}
            state = restore(self._run, parts | weights, step=step)
            self.keep(step, template._replace(step=state["step"], params=state["params"]))

    def close(self) -> None:
        self._best.close()
