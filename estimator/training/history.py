"""Restores what a resumed run has to know of its metrics so far."""

import math
from typing import NamedTuple

from estimator import storage
from estimator.parallel import agreement
from estimator.quantities import numbered
from estimator.training.checkpoints import Checkpoints
from estimator.training.metrics_log import FILE_NAME, blocks, is_same_evaluation, records
from estimator.training.monitor import BestEvaluation, LossWatch
from estimator.training.run_config import RunConfig


class History(NamedTuple):
    """Metrics of the run so far. watch, best: restored from the log. losses: of the evaluated steps, on the windows
    evaluated from now on. evaluated: step of the last evaluation, or -1. train_steps: steps between evaluations."""

    watch: LossWatch
    best: BestEvaluation
    losses: dict[int, float]
    evaluated: int
    train_steps: int

    def owes_evaluation(self, step: int, *, at_end: bool) -> bool:
        """Whether the run ended between a checkpoint and the evaluation of its step."""
        return self.evaluated < step and (at_end or step % self.train_steps == 0)


def read_history(config: RunConfig, checkpoints: Checkpoints, step: int, *, evaluation: str = "") -> History:
    """Restores the history from the metrics up to a step; equal on all processes.

    evaluation: digest of the windows evaluated from now on. Losses of other windows cannot be the best; those of the
    same ones can, whatever was evaluated, or only begun to be, in between.
    """

    def logged() -> list[tuple[str, int, float | None, str | None]]:
        path = storage.join(config.model_path, FILE_NAME)
        if not step or not storage.is_file(path):
            return []
        return [
            (record["split"], record["step"], record.get("loss"), record.get("evaluation"))
            for first, lines in blocks(path)
            for record in records(lines, path=path, first=first)
            if record["step"] <= step
        ]

    watch = LossWatch(max_skipped=config.max_skipped_steps, max_rise=config.max_loss_rise)
    best, losses, evaluated, before = BestEvaluation(keeps=config.keep_best), {}, -1, 0
    saved = checkpoints.steps
    history, windows = agreement.from_first(logged), ""
    now = evaluation or next((digest for *_, digest in reversed(history) if digest), "")
    for split, at, loss, digest in history:
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
    return History(watch, best, losses, evaluated if history else step, config.train_steps)


def early_stop(best: BestEvaluation, step: int) -> str:
    """A line on a run that `patience` has ended."""
    return (
        f"stopped at step {step}: {numbered(best.waited, 'evaluation')} without a loss below {best.lowest:.4f}; "
        "a larger patience continues"
    )
