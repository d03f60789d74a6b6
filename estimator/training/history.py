"""Restores what a resumed run has to know of its metrics so far."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from estimator import storage
from estimator.parallel import agreement
from estimator.quantities import numbered
from estimator.training.checkpoints import Checkpoints
from estimator.training.metrics_log import FILE_NAME, blocks, is_same_evaluation, records
from estimator.training.monitor import BestEvaluation, LossWatch
from estimator.training.run_config import RunConfig
from estimator.training.train_step import Schedule

LEAST_CHANGE = 0.1  # of a learning rate, as a part of it, that is worth a line


class History(NamedTuple):
    """Metrics of the run so far. watch, best: restored from the log. losses: of the evaluated steps, on the windows
    evaluated from now on. evaluated: step of the last evaluation, or -1. train_steps: steps between evaluations. rate:
    the last learning rate in the log, with its step."""

    watch: LossWatch
    best: BestEvaluation
    losses: dict[int, float]
    evaluated: int
    train_steps: int
    rate: tuple[int, float] | None = None

    def owes_evaluation(self, step: int, *, at_end: bool) -> bool:
        """Whether the run ended between a checkpoint and the evaluation of its step."""
        return self.evaluated < step and (at_end or step % self.train_steps == 0)

    def change_of_rate(
        self, learning_rate: Schedule, command: Callable[[int], tuple[float, str]], step: int, *, last: int
    ) -> str:
        """A line where the schedule until now had other learning rates, or "": a later end takes them up from near 0.

        command: `LiveControl.rate`. last: the step that ends the run.
        """
        if self.rate is None:
            return ""
        now, (at, before) = jax.jit(learning_rate), self.rate
        if math.isclose(before, float(now(at - 1)) * command(at - 1)[0], rel_tol=LEAST_CHANGE):
            return ""
        rate = float(now(step)) * command(step)[0]
        return (
            f"learning rate: {before:.2e} in step {at}, {rate:.2e} in step {step + 1}, by the schedule to step {last}"
        )


def read_history(config: RunConfig, checkpoints: Checkpoints, step: int, *, evaluation: str = "") -> History:
    """Restores the history from the metrics up to a step; equal on all processes.

    evaluation: digest of the windows evaluated from now on. Losses of other windows cannot be the best; those of the
    same ones can, whatever was evaluated, or only begun to be, in between.
    """

    def logged() -> list[tuple[str, int, float | None, str | None, float | None]]:
        path = storage.join(config.model_path, FILE_NAME)
        if not step or not storage.is_file(path):
            return []
        return [
            (record["split"], record["step"], record.get("loss"), record.get("evaluation"), record.get("lr"))
            for first, lines in blocks(path)
            for record in records(lines, path=path, first=first)
            if record["step"] <= step
        ]

    watch = LossWatch(max_skipped=config.max_skipped_steps, max_rise=config.max_loss_rise)
    best, losses, evaluated, before = BestEvaluation(keeps=config.keep_best), {}, -1, 0
    saved = checkpoints.steps
    history, windows = agreement.from_first(logged), ""
    now = evaluation or next((digest for *_, digest, _ in reversed(history) if digest), "")
    rate = next(((at, lr) for split, at, *_, lr in reversed(history) if split == "train" and lr is not None), None)
    for split, at, loss, digest, _ in history:
        if split == "event" and digest:
            windows = digest
        elif split == "eval":
            evaluated = at
            checkpoint = max((saved_at for saved_at in saved if saved_at <= at), default=None)
            if is_same_evaluation(windows, now):
                losses[at] = math.nan if loss is None else loss
                best.add(losses[at], step=at, checkpoint=checkpoint)
        elif split == "train" and loss is not None:
            watch.restore(at, loss, count=at - before)
            before = at
    # Without a log, no evaluation can be missing.
    return History(watch, best, losses, evaluated if history else step, config.train_steps, rate)


def early_stop(best: BestEvaluation, step: int) -> str:
    """A line on a run that `patience` has ended."""
    return (
        f"stopped at step {step}: {numbered(best.waited, 'evaluation')} without a loss below {best.lowest:.4f}; "
        "a larger patience continues"
    )
