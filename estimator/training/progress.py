"""Reads and writes the windows and tokens that a run was trained on, across changes of batch size and data.

progress.json holds one span per change, with the totals before it. Together with a checkpoint's step it gives the
position in the data, so it cannot disagree with the newest checkpoint; it is written only when a run starts.
"""

from pathlib import Path
from typing import Any

from estimator import format_version, json_text, storage
from estimator.errors import UserError
from estimator.json_text import is_whole, sealed
from estimator.training.data_position import DataSpan

FILE_NAME = "progress.json"


def resume(
    folder: str | Path, step: int, *, batch_size: int, tokens_per_window: int, data: dict[str, Any], old: dict[str, Any]
) -> list[DataSpan]:
    """Returns the spans of a run that resumes from `step`; the last one applies to the coming steps.

    Data whose training ended at this step continue after their last window, whatever starts that trained no step were
    given since. old: the previous configuration, for runs without the file. Raises UserError if the file is damaged.
    """
    spans = [span for span in _read(folder) if span.step <= step]
    if not spans:
        before = [old.get("train_batch_size", batch_size), old.get("n_ctx", tokens_per_window)] if step else []
        sizes = before or [batch_size, tokens_per_window]
        spans = [DataSpan(0, 0, 0, sizes[0], sizes[1], None if step else data, 0)]
    spans = _up_to_these_data(spans, step, data)
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
        spans = [span for span in spans if span.step < step or is_other_order(span, data)] + [new]
    return spans


def missing(folder: str | Path, first: DataSpan, step: int) -> str:
    """What a run at `step` without the file is taken for, or "" where it has the file or no step.

    first: the span of its first steps. Called before `write`.
    """
    path = storage.join(str(folder), FILE_NAME)
    if not step or storage.is_file(path):
        return ""
    return (
        f"{path} is missing; the {step} steps so far are taken for ones of {first.batch_size} windows of "
        f"{first.tokens_per_window} tokens (config.json); if they were not, restore the file from a copy of the run"
    )


def _up_to_these_data(spans: list[DataSpan], step: int, data: dict[str, Any]) -> list[DataSpan]:
    """The spans up to the newest of these data among those that the run was at `step` in; all, if there is none.

    A start that trained no step has left a span that begins where it ends.
    """
    ended_here = max((i for i, span in enumerate(spans) if span.step < step), default=0)
    newest = range(len(spans) - 1, ended_here - 1, -1)
    return spans[: next((i for i in newest if not is_other_order(spans[i], data)), len(spans) - 1) + 1]


def is_other_order(span: DataSpan | None, data: dict[str, Any]) -> bool:
    """Whether a span, if there is one, was read in another order than `data` are."""
    recorded = dict(span.data or {}) if span else {}
    if "order" in recorded:  # which earlier versions did not record
        recorded.pop("content", None)  # evaluation documents included
    return any(data.get(name) != value for name, value in recorded.items())


def change_of_order(folder: str | Path, spans: list[DataSpan], step: int) -> str:
    """A line where a run reads windows in another order from `step` on than at its last start, or "".

    spans: those that it continues with. Called before they are written.
    """
    now, before = spans[-1], span_of(folder, step + 1)
    if not is_other_order(before, now.data or {}):
        return ""
    place = "the window after the last that they were trained on" if now.window_at(step) else "the first window"
    return f"the data or their order: training continues with {place}"


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
        values = json_text.loads(storage.read_bytes(path))
        format_version.check(values, path)
        if is_whole(values):
            return [DataSpan(**span) for span in values["spans"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} is damaged; restore it from a copy of the run")
