"""Writes metrics to metrics.jsonl, TensorBoard and the console. Only process 0 does."""

import json
import math
import numbers
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from estimator import storage
from estimator.shards.framing import FOOTER, header, masked_crc32c
from estimator.storage.sync import Mirror
from estimator.training.metrics_log import FILE_NAME, Lost, Record, tail
from estimator.training.tracker_process import TrackerProcess, finish


class MetricsLog:
    """Writes the metrics.jsonl and TensorBoard events of a run folder.

    resume_step: step of the checkpoint that training resumes from. Records of later steps are dropped, because those
    steps will run again; 0 drops all, unless it is a rollback. So a step never appears twice in a split. trackers:
    names of trackers that get the records too. is_replay: whether the dropped steps will come with the same numbers.
    """

    def __init__(self, folder: str | Path, *, resume_step: int, trackers: Sequence[str] = (), is_replay: bool = True):
        run_folder = str(folder)
        self._mirror = Mirror(str(folder), [FILE_NAME]) if storage.is_remote(folder) else None
        folder = self._mirror.local if self._mirror else Path(folder)
        self.folder, self.path = folder, folder / FILE_NAME
        folder.mkdir(parents=True, exist_ok=True)
        self.lost = Lost()
        kept = self._cut(resume_step, is_new=is_replay and not resume_step)
        self._last_step = {record["split"]: record["step"] for record in kept}
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.events = EventFile(folder, first_step=resume_step + 1)
        self._trackers = [
            TrackerProcess(name, run_folder, self.path, resume_step=resume_step, is_replay=is_replay)
            for name in trackers
        ]

    def _cut(self, resume_step: int, *, is_new: bool) -> list[Record]:
        if not self.path.exists():
            return []
        start, records = tail(self.path, resume_step)
        kept = [] if is_new else [record for record in records if record["step"] <= resume_step]
        self.lost = Lost.of(records if is_new else [r for r in records if r["step"] > resume_step], resume_step)
        content = b"".join(map(_line, kept))
        with self.path.open("rb") as file:
            file.seek(start)
            if file.read() == content:
                return kept
            file.seek(0)
            # A new file, as a tracker may still read the old one.
            storage.write_bytes_atomic(self.path, file.read(start) + content)
        return kept

    def write(self, record: Record) -> None:
        """Appends a record unless its split already has this step, as when a finished run is evaluated again."""
        split, step = record["split"], record["step"]
        if step <= self._last_step.get(split, -1):
            return
        self._last_step[split] = step
        self._append(_line(record))
        kept = {key: value for key, value in record.items() if key not in ("step", "split", "time")}
        values = {f"{split}/{key}": float(value) for key, value in kept.items() if value is not None}
        self.events.write(step, values, time=record["time"])

    def event(self, record: Record) -> None:
        """Appends a record of split "event"; a step may have several."""
        self._append(_line(record))

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            error.filename = str(self.path)  # which the error of an open file does not name
            raise

    def flush(self) -> None:
        """Waits until all records have reached the run's folder."""
        if self._mirror:
            self._mirror.sync()

    def close(self) -> None:
        os.close(self._file)
        self.events.close()
        finish(self._trackers)
        if self._mirror:
            self._mirror.close()


def _line(record: Record) -> bytes:
    return json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Converts NumPy numbers to Python's, and NaN and infinities, which JSON lacks, to None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


class Console:
    """Shows progress: a bar on a terminal, aligned lines elsewhere.

    total_steps: last step of the run. stream: defaults to sys.stderr.
    """

    def __init__(self, *, total_steps: int, stream: TextIO | None = None):
        self._total = total_steps
        self._stream = stream or sys.stderr
        self._first_step: int | None = None
        self._seconds = 0.0  # of steps and pauses since the first record
        self._paused: set[str] = set()  # kinds of pauses so far
        self._bar: tqdm | None = None
        self._train_parts: tuple[str, list[str]] = ("", [])  # of the bar
        self._eval_loss: float | None = None
        if self._stream.isatty():
            layout = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{desc}"
            self._bar = tqdm(total=total_steps, file=self._stream, bar_format=layout, dynamic_ncols=True)

    def train(self, record: Record) -> None:
        """Shows the train record of a log interval."""
        loss, rates = f"loss {_number(record['loss'], '7.4f')}", [f"{_short(record['tokens_per_second']):>5} tok/s"]
        if record.get("mfu") is not None:
            rates.append(f"mfu {record['mfu']:.1%}")
        rates.append(f"{self._time_left(record)} left")
        if self._bar is None:
            optimizer = [f"lr {_number(record['lr'], '.2e')}", f"grad {_number(record['grad_norm'], '5.2f')}"]
            self.at_step(record["step"], "  ".join([loss, *optimizer, *rates]))
        else:
            self._train_parts = (loss, rates)
            self._move_bar(record["step"])

    def _move_bar(self, step: int) -> None:
        if self._bar is not None:
            loss, rates = self._train_parts
            evaluated = [] if self._eval_loss is None else [f"eval {self._eval_loss:.4f}"]
            self._bar.n = step
            self._bar.set_description_str("  " + "  ".join([*filter(None, [loss]), *evaluated, *rates]))

    def _time_left(self, record: Record) -> timedelta:
        """Time left at the average pace since the first record, evaluations and other pauses included."""
        step = record["step"]
        self._count_pauses(record)
        if self._first_step is None:
            self._first_step = self._last_step = step
        self._seconds += record["step_seconds"] * (step - self._last_step)
        self._last_step = step
        pace = self._seconds / (step - self._first_step) if step > self._first_step else record["step_seconds"]
        return timedelta(seconds=round(max(self._total - step, 0) * pace))

    def _count_pauses(self, record: Record) -> None:
        """Adds the pauses of a record, the first of each kind aside: it compiles, and may stay the only one."""
        for key in ("eval_seconds", "checkpoint_seconds", "check_seconds", "sample_seconds"):
            if record.get(key):
                self._seconds += record[key] if key in self._paused else 0.0
                self._paused.add(key)

    def evaluation(self, record: Record) -> None:
        """Shows an eval record."""
        self._eval_loss = record["loss"]
        self._count_pauses(record)
        text = f"eval loss {_number(record['loss'], '.4f')}"
        if "perplexity" in record:
            text += f"  perplexity {readable(record['perplexity'], 2)}"
        if record.get("bits_per_byte") is not None:
            text += f"  bits per byte {record['bits_per_byte']:.4f}"
        self.at_step(record["step"], text)
        self._move_bar(record["step"])

    def at_step(self, step: int, text: str) -> None:
        """Shows a line about a step."""
        self.note(f"{self._position(step)}  {text}")

    def _position(self, step: int) -> str:
        width = len(str(self._total))
        return f"step {step:>{max(width, 6)}}/{self._total}"

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


def readable(value: float | None, decimals: int) -> str:
    """A number with so many decimals, in powers of ten from a million on."""
    return _number(value, f".{decimals}{'f' if value is None or abs(value) < 1e6 else 'e'}")


def _short(value: float | None) -> str:
    """Formats a number briefly: 950, 12.3k, 1.21M."""
    if value is None or not math.isfinite(value):
        return "nan"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{letter}"
    return f"{value:.0f}"


# TensorBoard.

_FILE_VERSION = b"brain.Event:2"
# Field numbers of these messages, and the encoding of a field's value.
_EVENT_TIME, _EVENT_STEP, _EVENT_VERSION, _EVENT_SUMMARY, _EVENT_SESSION = 1, 2, 3, 5, 7
_SUMMARY_VALUE, _VALUE_TAG, _VALUE_NUMBER, _SESSION_STATUS = 1, 1, 2, 1
_VALUE_TENSOR, _VALUE_METADATA, _METADATA_PLUGIN, _PLUGIN_NAME = 8, 9, 1, 1
_TENSOR_TYPE, _TENSOR_SHAPE, _TENSOR_STRING, _STRING_TYPE = 1, 2, 8, 7
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_STARTED = 1


class EventFile:
    """A new event file of TensorBoard: one protocol buffer per event in a TFRecord frame.

    Our own code because the packages that write events import PyTorch if it is installed, which delays every start by
    seconds. Fields follow tensorflow/core/util/event.proto and framework/summary.proto.
    first_step: TensorBoard discards this step and later ones from earlier files.
    """

    def __init__(self, folder: Path, *, first_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        self._append(first_step, time.time(), _bytes(_EVENT_VERSION, _FILE_VERSION))
        self._append(first_step, time.time(), _bytes(_EVENT_SESSION, _varint_field(_SESSION_STATUS, _STARTED)))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float], *, time: float) -> None:
        """Writes {tag: value}. time: Unix seconds. The data is in the file when this returns."""
        summary = b"".join(
            _bytes(_SUMMARY_VALUE, _bytes(_VALUE_TAG, tag.encode()) + _key(_VALUE_NUMBER, _FOUR_BYTES) + _float(value))
            for tag, value in values.items()
        )
        self._append(step, time, _bytes(_EVENT_SUMMARY, summary))
        self._file.flush()

    def write_text(self, step: int, tag: str, text: str, *, time: float) -> None:
        """Writes a text, which the page reads as Markdown. time: Unix seconds."""
        tensor = _varint_field(_TENSOR_TYPE, _STRING_TYPE) + _bytes(_TENSOR_SHAPE, b"")
        value = _bytes(_VALUE_TAG, tag.encode()) + _bytes(
            _VALUE_TENSOR, tensor + _bytes(_TENSOR_STRING, text.encode(errors="replace"))
        )
        value += _bytes(_VALUE_METADATA, _bytes(_METADATA_PLUGIN, _bytes(_PLUGIN_NAME, b"text")))
        self._append(step, time, _bytes(_EVENT_SUMMARY, _bytes(_SUMMARY_VALUE, value)))
        self._file.flush()

    def _append(self, step: int, time: float, what: bytes) -> None:
        event = _key(_EVENT_TIME, _EIGHT_BYTES) + struct.pack("<d", time) + _varint_field(_EVENT_STEP, step) + what
        self._file.write(header(len(event)) + event + FOOTER.pack(masked_crc32c(event)))

    def close(self) -> None:
        self._file.close()


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, _VARINT) + _varint(number)


def _varint(number: int) -> bytes:
    """Encodes an unsigned integer as a protocol buffer varint."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _float(number: float) -> bytes:
    try:
        return struct.pack("<f", number)
    except OverflowError:  # beyond 3.4e38
        return struct.pack("<f", float("inf") if number > 0 else float("-inf"))
