"""The records of a run's metrics.jsonl.

A record is a flat dict with step (optimizer steps done), tokens (trained on so far), split ("train", "eval" or "event")
and time (Unix seconds). Train and eval records have a loss (nats per token); a train record's is the mean of the steps
since the last record or, after a restart, since the checkpoint. Train records add lr, grad_norm, tokens_per_second,
step_seconds, input_wait (fraction of time spent waiting for data), mfu (fraction; only if the device's peak is known;
these four are equal for the steps of one device call, of which there are up to `iterations`),
flops (of the training so far) and, where such time passed since the last record, compile_seconds, checkpoint_seconds,
check_seconds, sample_seconds and pause_seconds (by control.py), which step_seconds excludes; eval records add
eval_seconds, perplexity and bits_per_byte (if known). Event records say with `event` what happened, as often as it does
in a step: "start" has total_steps (at which the run ends), start_seconds (from the program's start to the first step)
and, after a restart, lost_steps and lost_seconds (trained before and repeated now), and evaluation, a digest of the
windows that the run is evaluated on; "stop" has is_complete (whether the run ends) and the seconds after the last train
record; "skipped" and "rollback" name a bad step and its windows, "rollback" lost steps, too. Only process 0 keeps
a log. Values are Python or NumPy numbers, never JAX's.
"""

import functools
import json
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from estimator import json_text, storage
from estimator.errors import UserError

FILE_NAME = "metrics.jsonl"
BLOCK = 1 << 19  # bytes; with their records they fit into a core's cache, which saves a quarter of the time
Record = dict[str, Any]
_PLAIN = {int, float, bool, str, NoneType}  # types of a record's values
LOST_KINDS = ("compile", "checkpoint", "check", "eval", "sample", "lost")
EVALUATION = ("loss", "perplexity", "bits_per_byte", "eval_seconds")  # numbers of eval records that compare runs
# Numbers that a resumed run computes with.
NUMBERS = ("loss", "lr", "step_seconds", *(f"{kind}_seconds" for kind in LOST_KINDS))


def read(path: str | Path) -> list[Record]:
    """Reads the records of a metrics.jsonl.

    A killed run may leave an incomplete last line, which is dropped. Any other line that is not a record raises
    UserError with the file and line number.
    """
    return [each for first, lines in blocks(path) for each in records(lines, path=path, first=first)]


def begins(path: str | Path) -> bool:
    """Whether the first line of a file is a record."""
    with storage.open(str(path)) as file:
        return parse(file.readline(BLOCK)) is not None


def blocks(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line; an incomplete last line is dropped."""
    rest, number = b"", 1
    with storage.open(str(path)) as file:
        for data in iter(functools.partial(file.read, BLOCK), b""):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield number, whole
                number += whole.count(b"\n") + 1
    if parse(rest) is not None:
        yield number, rest


def records(lines: bytes, *, path: str | Path, first: int) -> list[Record]:
    """The records of some lines. Raises UserError if one of them is none. first: number of the first line."""
    # Python's own parser, unlike orjson, gives integers that are too large for a float.
    if _loads() is not json.loads and (rows := unchecked_records(lines)):
        splits, kinds = ({type(row.get(key)) for row in rows for key in keys} for keys in (("split",), NUMBERS))
        if splits == {str} and str not in kinds and {*map(type, chain.from_iterable(map(dict.values, rows)))} <= _PLAIN:
            return rows
    return [record(line, path=path, number=number) for number, line in enumerate(lines.split(b"\n"), first)]


def unchecked_records(lines: bytes) -> list[Record] | None:
    """The records of some lines, whose values other than step may be of any kind; None if a line is no record.

    All lines are parsed as one array, several times as fast as one by one.
    """
    try:
        rows = _loads()(b"[" + lines.replace(b"\n", b",") + b"]")
        whole = len(rows) == lines.count(b"\n") + 1 and {*map(type, map(itemgetter("step"), rows))} == {int}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return rows if whole else None


@functools.cache
def _loads() -> Callable[[bytes], Any]:
    """A parser of JSON: orjson, three times as fast as Python's own, where it is installed."""
    try:
        import orjson
    except ImportError:
        return json.loads
    return orjson.loads


def tail(path: Path, step: int) -> tuple[int, list[Record]]:
    """The last records of a metrics.jsonl, all those of later steps among them, and where they begin in the file.

    Only the end of the file is read, further back until half of its records are of at most `step` steps: those before
    are too, as records are almost in the order of their steps.
    """
    with path.open("rb") as file:
        size, length = path.stat().st_size, BLOCK
        while length < size:
            file.seek(size - length)
            file.readline()  # the end of a line
            start = file.tell()
            *lines, rest = file.read().split(b"\n")
            found = [*map(parse, lines), *filter(None, [parse(rest)])]
            earlier = [record for record in found[: len(found) // 2] if record]
            if None in found:
                break  # `read` names the line
            if earlier and max(record["step"] for record in earlier) <= step:
                return start, [record for record in found if record]
            length *= 2
    lines = ((n, line) for first, block in blocks(path) for n, line in enumerate(block.split(b"\n"), first))
    return 0, [record(line, path=path, number=number) for number, line in lines]


def record(line: bytes, *, path: str | Path, number: int) -> Record:
    """The record of a line. Raises UserError with its number if it is not one."""
    values = parse(line)
    if values is None:
        raise UserError(f"{path}, line {number}: not a record of a run; move this line to another file, or correct it")
    return values


def parse(line: bytes) -> Record | None:
    """The record of a line; None if it is not one."""
    try:
        record = json_text.loads(line)
        whole = type(record["step"]) is int and type(record["split"]) is str
        whole = whole and not any(isinstance(record.get(key), str) for key in NUMBERS)
        for value in record.values():
            if not isinstance(value, str) and value is not None:
                float(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return record if whole else None


class Lost(NamedTuple):
    """Training that a restart repeats, or that a rollback leaves."""

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


def is_same_evaluation(one: str, other: str) -> bool:
    """Whether digests of evaluated windows may be of the same ones: equal, or unknown, "".

    That of an earlier version is the beginning of ours.
    """
    return one.startswith(other) or other.startswith(one)
