"""Sums up a run: its results, its speed, and where its time went."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import numpy as np

from estimator.plots.columns import LARGEST, Columns
from estimator.plots.runs import Run
from estimator.training.metrics_log import is_same_evaluation
from estimator.training.metrics_writers import readable

# What seconds were spent on, in the order that reports show: key of `time_spent` -> its name.
KINDS = {
    "training": "training", "input": "waiting for input", "compile": "compilation", "eval": "evaluation",
    "checkpoint": "checkpoints", "sample": "samples", "start": "start", "pause": "paused",
    "lost": "lost to restarts and rollbacks", "other": "other",
}  # fmt: skip

PER_START = ("start", "compile")  # kinds that a longer run does not have more of


NAMES = ("steps", "tokens", "training loss", "evaluation loss", "perplexity", "bits per byte", "speed", "time",
         "of which", "goodput", "restarts")  # of results  # fmt: skip


class Result(NamedTuple):
    """A line of a summary."""

    name: str
    text: str


def time_spent(run: Run) -> dict[str, float]:
    """Seconds of the run by keys of KINDS. The time between two processes is not counted."""
    steps, seconds = run.train["step"], run.train["step_seconds"]
    interval = np.median(np.diff(steps)) if steps.size > 1 else (steps[0] if steps.size else 0)
    training = np.nan_to_num(seconds * np.diff(steps, prepend=steps[:1] - interval))
    waiting = training * np.nan_to_num(run.train["input_wait"])
    spent = {"training": float(training.sum() - waiting.sum()), "input": float(waiting.sum())}

    def add(name: str, value: float) -> None:
        kind = name.removesuffix("_seconds")
        spent[kind if kind in KINDS else "other"] = spent.get(kind if kind in KINDS else "other", 0.0) + value

    for split in (run.train, run.evaluation):
        for name in split:
            if name.endswith("_seconds") and name != "step_seconds":
                add(name, float(np.nansum(split[name])))
    for event in run.events:
        for name, value in event.items():
            if name.endswith("_seconds") and isinstance(value, int | float) and abs(value) < LARGEST:
                add(name, float(value))
    return {kind: spent[kind] for kind in KINDS if spent.get(kind, 0.0) > 0}


def goodput(spent: dict[str, float]) -> float | None:
    """Fraction of the time that was training which lasts; None without times."""
    total = sum(spent.values())
    return spent.get("training", 0.0) / total if total else None


def restarts(run: Run) -> int:
    """How often the run was continued."""
    return max(0, sum(event.get("event") == "start" for event in run.events) - 1)


def results(run: Run) -> list[Result]:
    """The lines of a summary; those without data are left out."""
    spent = time_spent(run)
    lines = [
        Result("steps", f"{run.last_step:,.0f}"),
        Result("tokens", _tokens(run)),
        Result("training loss", _training(run)),
        Result("evaluation loss", _evaluation(run)),
        Result("perplexity", _last(run.evaluation, "perplexity", partial(readable, decimals=2))),
        Result("bits per byte", _last(run.evaluation, "bits_per_byte", "{:.4f}".format)),
        Result("speed", _speed(run)),
        Result("time", duration(sum(spent.values())) if spent else ""),
        Result("of which", ", ".join(f"{KINDS[kind]} {duration(value)}" for kind, value in spent.items())),
        Result("goodput", _goodput(spent)),
        Result("restarts", str(restarts(run) or "")),
    ]
    return [line for line in lines if line.text]


def table(run: Run) -> list[str]:
    """The results as aligned lines of text."""
    lines = results(run)
    width = max(len(line.name) for line in lines)
    return [f"{line.name:<{width}}  {line.text}" for line in lines]


def _last(split: Columns, key: str, show: Callable[[float], str]) -> str:
    known = split[key][np.isfinite(split[key])]
    return show(known[-1]) if known.size else ""


def _tokens(run: Run) -> str:
    # The last log line may be steps ago.
    counts = np.concatenate([run.train["tokens"], run.evaluation["tokens"], run.at_last_event("tokens")])
    return f"{np.nanmax(counts):,.0f}" if np.isfinite(counts).any() else ""


def _training(run: Run) -> str:
    """The last logged loss, with its step where the run has later ones (`log_steps`)."""
    known, step = np.isfinite(run.train["loss"]), run.train["step"]
    if not known.any():
        return ""
    text = f"{run.train['loss'][known][-1]:.4f}"
    return f"{text} (step {step[known][-1]:,.0f})" if step[known][-1] < run.last_step else text


def _evaluation(run: Run) -> str:
    """The last loss, and the lowest one of the same windows, if it is another."""
    is_same = _windows_of_the_last(run)
    losses, steps = run.evaluation["loss"][is_same], run.evaluation["step"][is_same]
    if not np.isfinite(losses).any():
        return ""
    best = int(np.nanargmin(losses))
    text = f"{losses[-1]:.4f}"
    return text if best == len(losses) - 1 else f"{text} (lowest {losses[best]:.4f} at step {steps[best]:,.0f})"


def _windows_of_the_last(run: Run) -> np.ndarray:
    """bool [evaluations]: whether the windows are those of the last one, as far as the run's starts tell."""
    steps, times = run.evaluation["step"], run.evaluation["time"]
    windows, is_same = "", np.full(run.evaluation.rows, True)
    for event in run.events:
        if isinstance(digest := event.get("evaluation"), str):
            step, time = event["step"], event.get("time") or 0
            is_later = (steps > step) | ((steps == step) & (times >= time))  # a start makes up for a missing one
            if not is_same_evaluation(windows, digest) and is_later.any():
                is_same = is_later
            windows = digest
    return is_same


def _goodput(spent: dict[str, float]) -> str:
    """Also that of the time after the start, where a run is so short that it differs."""
    share = goodput(spent)
    if share is None:
        return ""
    longer = goodput({kind: value for kind, value in spent.items() if kind not in PER_START})
    if longer is None or longer < share + 0.05:
        return f"{share:.1%}"
    return f"{share:.1%} ({longer:.1%} after the start)"


def _speed(run: Run) -> str:
    rates, mfu = run.train["tokens_per_second"], run.train["mfu"]
    if not np.isfinite(rates).any():
        return ""
    text = f"{np.nanmedian(rates):,.0f} tokens/s"
    return text + (f", MFU {np.nanmedian(mfu):.1%}" if np.isfinite(mfu).any() else "")


def duration(seconds: float) -> str:
    """A time as people read it: 0.4 s, 12 s, 3:25, 2:03:25, 1 day, 2:03:25."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds >= timedelta.max.total_seconds():
        return f"{seconds:.3g} s"
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0")
