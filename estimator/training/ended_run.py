"""How far a run came in which no process trains now: what `control.py RUN status` answers for it."""

import contextlib
from typing import NamedTuple

from estimator import invocation, storage
from estimator.errors import UserError
from estimator.training import metrics_log, run_dir

NAMES = {"train": "loss", "eval": "eval loss"}  # of the losses in words, by split


class EndedRun(NamedTuple):
    """step: the last that is logged. total: the step at which the run ends, if that is known. losses: the last ones, by
    the names that they have in words. is_complete: whether the run has ended. folder: the run's.
    """

    folder: str
    step: int
    total: int | None
    losses: dict[str, float]
    is_complete: bool

    def __str__(self) -> str:
        if not self.step:
            return f"no step is logged; start it with {self.command}"
        of = f" of {self.total:,}" if self.total else ""
        place = ", ".join([f"step {self.step:,}{of}", *(f"{name} {loss:.4f}" for name, loss in self.losses.items())])
        return f"complete at {place}" if self.is_complete else f"{place}; continue it with {self.command}"

    @property
    def command(self) -> str:
        """Continues the run."""
        config = storage.join(self.folder, run_dir.CONFIG)
        return f"{invocation.program('main.py')} --model {config if storage.is_file(config) else 'X.json'}"


def read(folder: str) -> EndedRun:
    """Reads the log and, for one of a version that did not record them, max_steps of the configuration."""
    file = storage.join(folder, metrics_log.FILE_NAME)
    step, total, losses, is_complete = 0, None, {}, False
    with contextlib.suppress(UserError):  # the log can be told without a configuration that is whole
        total = run_dir.config_before(folder).get("max_steps")
    for record in metrics_log.read(file) if storage.is_file(file) else []:
        step = max(step, record["step"])
        if (name := NAMES.get(record["split"])) and record.get("loss") is not None:  # null where it was not finite
            losses[name] = record["loss"]
        elif record.get("event") == "start":
            total, is_complete = record.get("total_steps", total), False
        elif record.get("event") == "stop":
            is_complete = record.get("is_complete", total is not None and record["step"] >= total)
    return EndedRun(folder, step, total, losses, is_complete)
