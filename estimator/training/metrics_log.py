"""The records of a run's metrics.jsonl.

A record is a flat dict with step (optimizer steps done), tokens (trained on so far), split ("train", "eval" or "event")
and time (Unix seconds). Train and eval records have a loss (nats per token). Train records add lr, grad_norm,
tokens_per_second, step_seconds, input_wait (fraction of time spent waiting for data), mfu (fraction; only if the
device's peak is known), flops (of the training so far) and, where such time passed since the last record,
compile_seconds, checkpoint_seconds, check_seconds, sample_seconds and pause_seconds (by control.py), which step_seconds
excludes; eval records add eval_seconds, perplexity and bits_per_byte (if known). Event records say with `event` what
happened, as often as it does in a step: "start" has start_seconds (from the program's start to the first step) and,
after a restart, lost_steps and lost_seconds (trained before and repeated now), and evaluation, a digest of the windows
that the run is evaluated on; "stop" has the seconds after the last train record; "skipped" and "rollback" name a bad
step and its windows. Only process 0 keeps a log.
Values are Python or NumPy numbers, never JAX's.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from estimator import storage
from estimator.errors import UserError

FILE_NAME = "metrics.jsonl"
Record = dict[str, Any]
LOST_KINDS = ("compile", "checkpoint", "check", "eval", "sample", "lost")


def read(path: str | Path) -> list[Record]:
    """Reads the records of a metrics.jsonl.

    A killed run may leave an incomplete last line, which is dropped. Any other line that is not a record raises
    UserError with the file and line number.
    """
    *lines, rest = storage.read_bytes(str(path)).split(b"\n")
    records = [record(line, path=path, number=number) for number, line in enumerate(lines, start=1)]
    last = parse(rest)
    return records if last is None else [*records, last]


def record(line: bytes, *, path: str | Path, number: int) -> Record:
    """The record of a line. Raises UserError with its number if it is not one."""
    values = parse(line)
    if values is None:
        raise UserError(f"{path}, line {number}: not a record of a run; move this line to another file, or correct it")
    return values


def parse(line: bytes) -> Record | None:
    """The record of a line; None if it is not one."""
    try:
        record = json.loads(line)
        whole = type(record["step"]) is int and type(record["split"]) is str
        for value in record.values():
            if not isinstance(value, str) and value is not None:
                float(value)
    except (ValueError, RecursionError, TypeError, KeyError, OverflowError):
        return None
    return record if whole else None


class Lost(NamedTuple):
    """Training that a restart repeats."""

    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, records: list[Record], resume_step: int) -> "Lost":
        """The loss that these records of steps after `resume_step` tell, including what earlier restarts lost."""
        last, seconds = resume_step, 0.0
        for record in records:
            seconds += sum(record.get(f"{kind}_seconds") or 0.0 for kind in LOST_KINDS)
            if record["split"] == "train":
                seconds += (record.get("step_seconds") or 0.0) * max(record["step"] - last, 0)
                last = max(record["step"], last)
        return cls(last - resume_step, round(seconds, 3))
