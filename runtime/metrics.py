"""What a run measures, where it is kept and what it shows: metrics.jsonl, TensorBoard events, the console.

A record is a flat dict. Always: step (optimizer steps done), tokens (trained on so far), split ("train" or "eval"),
loss (nats per token), time (Unix seconds). In train records also lr, grad_norm, tokens_per_second, step_seconds,
input_wait (fraction of the time spent waiting for data) and, where the device's peak is known, mfu (a fraction); in
eval records perplexity and, where known, bits_per_byte.
Only process 0 keeps a log. No JAX here: values are plain Python or numpy numbers.
"""

import json
import math
import numbers
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from runtime import storage
from runtime.errors import UserError
from runtime.events import EventFile
from runtime.mirror import Mirror

FILE_NAME = "metrics.jsonl"
Record = dict[str, Any]


def read(path: str | Path) -> list[Record]:
    """The records of a metrics.jsonl.

    A last line without its line end is what a killed run leaves behind: it is dropped unless it is whole. Any other
    line that is not a record raises UserError with the file and the line.
    """
    *lines, rest = storage.read_bytes(str(path)).split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            raise UserError(f"{path}, line {number}: not a record of a run; delete this line")
        records.append(record)
    last = _parse(rest)
    return records if last is None else [*records, last]


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("split"), str)
    return record if whole else None


class MetricsLog:
    """The metrics.jsonl of a run folder, and TensorBoard events beside it.

    resume_step: the step of the checkpoint that the run goes on from. Later records are cut, because the steps they
    tell of will be run again; at 0 nothing is kept. So no step of a split ever stands in the file twice.
    """

    def __init__(self, folder: str | Path, *, resume_step: int):
        self._mirror = Mirror(str(folder), [FILE_NAME]) if storage.is_remote(folder) else None
        folder = self._mirror.local if self._mirror else Path(folder)
        self.path = folder / FILE_NAME
        folder.mkdir(parents=True, exist_ok=True)
        kept = self._cut(resume_step)
        self._last_step = {record["split"]: record["step"] for record in kept}
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._events = EventFile(folder, first_step=resume_step + 1)

    def _cut(self, resume_step: int) -> list[Record]:
        if not self.path.exists():
            return []
        kept = [record for record in read(self.path) if 0 < resume_step >= record["step"]]
        content = b"".join(map(_line, kept))
        if content != self.path.read_bytes():
            temporary = self.path.with_name(FILE_NAME + ".tmp")
            temporary.write_bytes(content)
            os.replace(temporary, self.path)
        return kept

    def write(self, record: Record) -> None:
        """Appends a record, unless its split has one for this step: evaluating a finished run again adds none."""
        split, step = record["split"], record["step"]
        if step <= self._last_step.get(split, -1):
            return
        self._last_step[split] = step
        self._append(_line(record))
        kept = {key: value for key, value in record.items() if key not in ("step", "split", "time")}
        values = {f"{split}/{key}": float(value) for key, value in kept.items() if value is not None}
        self._events.write(step, values, time=record["time"])

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            error.filename = str(self.path)
            raise

    def flush(self) -> None:
        """Returns when all records are where the run is kept."""
        if self._mirror:
            self._mirror.sync()

    def close(self) -> None:
        os.close(self._file)
        self._events.close()
        if self._mirror:
            self._mirror.close()


def _line(record: Record) -> bytes:
    return json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """The value as JSON has it: numpy's numbers as Python's, and null for NaN and infinities, which JSON lacks."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


class Console:
    """What a person sees of a run: a progress bar on a terminal, aligned lines elsewhere.

    total_steps: where the run will end. stream: sys.stderr unless given.
    """

    def __init__(self, *, total_steps: int, stream: TextIO | None = None):
        self._total = total_steps
        self._stream = stream or sys.stderr
        self._first: tuple[int, float] | None = None
        self._bar: tqdm | None = None
        if self._stream.isatty():
            layout = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{desc}"
            self._bar = tqdm(total=total_steps, file=self._stream, bar_format=layout, dynamic_ncols=True)

    def train(self, record: Record) -> None:
        """Shows the train record of a log interval."""
        parts = [f"loss {_number(record['loss'], '7.4f')}", f"lr {_number(record['lr'], '.2e')}"]
        if self._bar is None:
            parts.append(f"grad {_number(record['grad_norm'], '5.2f')}")
        parts.append(f"{_short(record['tokens_per_second']):>5} tok/s")
        if record.get("mfu") is not None:
            parts.append(f"mfu {record['mfu']:.1%}")
        parts.append(f"{self._time_left(record)} left")
        text = "  ".join(parts)
        if self._bar is None:
            print(f"{self._position(record)}  {text}", file=self._stream, flush=True)
        else:
            self._bar.n = record["step"]
            self._bar.set_description_str("  " + text)

    def _time_left(self, record: Record) -> timedelta:
        """From the pace since the first record, so that evaluations and checkpoints count and compilation does not."""
        now, step = time.monotonic(), record["step"]
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        pace = (now - first_time) / (step - first_step) if step > first_step else record["step_seconds"]
        return timedelta(seconds=round(max(self._total - step, 0) * pace))

    def evaluation(self, record: Record) -> None:
        """Shows an eval record."""
        text = f"eval loss {_number(record['loss'], '.4f')}"
        if "perplexity" in record:
            text += f"  perplexity {_number(record['perplexity'], '.2f')}"
        if record.get("bits_per_byte") is not None:
            text += f"  bits per byte {record['bits_per_byte']:.4f}"
        self.note(f"{self._position(record)}  {text}")

    def _position(self, record: Record) -> str:
        width = len(str(self._total))
        return f"step {record['step']:>{max(width, 6)}}/{self._total}"

    def note(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _number(value: float | None, layout: str) -> str:
    return format(math.nan if value is None else float(value), layout)


def _short(value: float | None) -> str:
    """950, 12.3k, 1.21M."""
    if value is None or not math.isfinite(value):
        return "nan"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{letter}"
    return f"{value:.0f}"
