"""Refuses to start a run again where it had checkpoints, and its other files would be lost."""

from typing import Any

from estimator import storage
from estimator.errors import UserError
from estimator.training import metrics_log
from estimator.training.best import BEST, kept


def require_none(run: str, checkpoints: Any) -> None:
    """Raises UserError if a run without a checkpoint once had some: RUN/best has weights, or the log tells of them.

    run, checkpoints: the run's folder and that of its checkpoints.
    """
    if steps := kept(run):
        known = f"{storage.join(run, BEST)} has the weights of step {max(steps)}"
        use = "; load_best=true evaluates, predicts and exports these"
    elif saved := _saved_step(run):
        known, use = f"{storage.join(run, metrics_log.FILE_NAME)} tells that there was one at about step {saved}", ""
    else:
        return
    raise UserError(
        f"{checkpoints} has no checkpoint to continue from, and {known}. Put the checkpoints back (is the folder moved "
        f"away, or its disk not mounted?){use}. To train from the beginning, choose another model_path, or --clean, "
        f"which empties {run}"
    )


def _saved_step(run: str) -> int:
    """The step near which the log tells of a checkpoint on disk; 0 if it tells of none.

    A process that was stopped, rather than killed, has saved its last step, and a save waits for the one before.
    """
    path, first, begun, saved = storage.join(run, metrics_log.FILE_NAME), 0, 0, 0
    if not storage.is_file(path):
        return 0
    for number, lines in metrics_log.blocks(path):
        for record in metrics_log.records(lines, path=path, first=number):
            if record.get("event") == "start":
                first, begun = record["step"], 0
            elif record.get("event") == "stop":
                saved = record["step"] if record["step"] > first else saved
            elif "checkpoint_seconds" in record:
                begun, saved = record["step"], begun or saved
    return saved
