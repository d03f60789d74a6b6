"""Reads and writes the windows and tokens that a run was trained on, across changes of batch size and data.

progress.json holds one span per change, with the totals before it. Together with a checkpoint's step it gives the
position in the data, so it cannot disagree with the newest checkpoint; it is written only when a run starts.
"""

import json
from pathlib import Path
from typing import Any

from estimator import format_version, storage
from estimator.errors import UserError
from estimator.hashing import is_whole, sealed
from estimator.training.data_position import DataSpan

FILE_NAME = "progress.json"


def resume(
    folder: str | Path, step: int, *, batch_size: int, tokens_per_window: int, data: dict[str, Any], old: dict[str, Any]
) -> list[DataSpan]:
    """Returns the spans of a run that resumes from `step`; the last one applies to the coming steps.

    old: the previous configuration, for runs without the file. Raises UserError if the file is damaged.
    """
    spans = [span for span in _read(folder) if span.step <= step]
    if not spans:
        before = [old.get("train_batch_size", batch_size), old.get("n_ctx", tokens_per_window)] if step else []
        sizes = before or [batch_size, tokens_per_window]
        spans = [DataSpan(0, 0, 0, sizes[0], sizes[1], None if step else data, 0)]
    last = spans[-1]
    if (last.batch_size, last.tokens_per_window) != (batch_size, tokens_per_window) or last.data != data:
        windows = last.windows_at(step)
        is_same_order = not is_other_order(last, data)
        first_window = last.first_window if is_same_order else windows
        skipped = last.skipped if is_same_order else 0
        new = DataSpan(
            step,
            windows,
            last.tokens_at(step),
            batch_size,
            tokens_per_window,
            data,
            first_window,
            skipped,
            last.rollbacks,
        )
        spans = [span for span in spans if span.step < step] + [new]
    return spans


def is_other_order(span: DataSpan | None, data: dict[str, Any]) -> bool:
    """Whether a span, if there is one, was read in another order than `data` are."""
    recorded = dict(span.data or {}) if span else {}
    if "order" in recorded:  # which earlier versions did not record
        recorded.pop("content", None)  # evaluation documents included
    return any(data.get(name) != value for name, value in recorded.items())


def span_of(folder: str | Path, step: int) -> DataSpan | None:
    """The span that a step of a run, counted from 1, is in; None if the run has recorded none."""
    return next((span for span in reversed(_read(folder)) if span.step < step), None)


def write(folder: str | Path, spans: list[DataSpan]) -> None:
    if spans != _read(folder):
        values = format_version.stamped({"spans": [span._asdict() for span in spans]})
        storage.write_json_atomic(storage.join(str(folder), FILE_NAME), sealed(values))


def _read(folder: str | Path) -> list[DataSpan]:
    path = storage.join(str(folder), FILE_NAME)
    if not storage.is_file(path):
        return []
    try:
        values = json.loads(storage.read_bytes(path))
        format_version.check(values, path)
        if is_whole(values):
            return [DataSpan(**span) for span in values["spans"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path} is damaged; restore it from a copy of the run")
