"""Draws the curves of one or more runs: loss, learning rate, tokens per second, gradient norm.

    python3 visualize.py --run runs/demo --figure curves.png
    python3 visualize.py --run runs/a runs/b --x time --figure compared.svg

A run is its folder or a metrics.jsonl, here or in a bucket. The file type follows from the figure's suffix.
"""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from runtime import metrics, storage
from runtime.errors import UserError, run_program

SUFFIXES = (".pdf", ".png", ".svg")
# Okabe and Ito's colours, told apart by all common kinds of colour vision; their yellow is too faint for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS = {"lr": "learning rate", "tokens_per_second": "tokens per second", "grad_norm": "gradient norm"}
TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))
STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The records of a run as arrays: `train[key]` and `evaluation[key]`, NaN where a record lacks the key."""

    label: str
    train: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]

    def x(self, split: dict[str, np.ndarray], kind: str) -> np.ndarray:
        """Where the records of a split stand on the axis `kind`: steps, tokens, or time in seconds of training."""
        if kind != "time":
            return split["step" if kind == "steps" else kind]
        # Seconds of training alone: neither a pause between two starts nor the evaluations stretch the axis.
        steps, seconds = self.train["step"], self.train["step_seconds"]
        if not steps.size or np.isnan(seconds).any():
            raise UserError(f"{self.label} does not tell the seconds of its steps; use --x steps or --x tokens")
        elapsed = np.cumsum(seconds * np.diff(steps, prepend=0))
        return np.interp(split["step"], np.insert(steps, 0, 0), np.insert(elapsed, 0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the curves of one or more runs.")
    parser.add_argument("--run", nargs="+", required=True, metavar="DIR", help="run folders or metrics.jsonl files")
    parser.add_argument("--figure", required=True, help="file to write: .png, .svg or .pdf")
    parser.add_argument("--x", choices=("steps", "tokens", "time"), default="steps", help="what the curves run over")
    parser.add_argument(
        "--smooth", type=float, help="weight of a neighbour in the smooth curve, 0 none; default: by length"
    )
    parser.add_argument("--log_x", action="store_true", help="logarithmic x axis")
    parser.add_argument("--log_y", action="store_true", help="logarithmic loss axis")
    arguments = parser.parse_args()
    figure = Path(arguments.figure)
    check_figure(figure)
    if arguments.smooth is not None and not 0 <= arguments.smooth < 1:
        raise UserError(f"--smooth {arguments.smooth:g}: should be at least 0 and below 1")
    runs = load_runs(arguments.run)
    draw(runs, figure, x=arguments.x, smooth=arguments.smooth, log_x=arguments.log_x, log_y=arguments.log_y)
    print(f"{figure}: " + ", ".join(summary(run) for run in runs))


def check_figure(figure: Path) -> None:
    """Says what is wrong with the file's name before any work is done."""
    if figure.suffix.lower() not in SUFFIXES:
        raise UserError(f"{figure}: unknown kind of figure; end the name in one of {' '.join(SUFFIXES)}")
    if not figure.parent.is_dir():
        raise UserError(f"{figure.parent}: no such folder; make it first: mkdir -p {figure.parent}")


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs, named by the part of their paths that tells them apart."""
    return [load_run(path, label=label) for path, label in zip(paths, labels(paths), strict=True)]


def load_run(path: str | Path, *, label: str) -> Run:
    """A run from its folder or its metrics.jsonl; raises UserError when there is nothing to draw."""
    path = str(path)
    if not storage.exists(path):
        raise UserError(f"{path}: no such run; give a run's folder (model_path) or its {metrics.FILE_NAME}")
    file = storage.join(path, metrics.FILE_NAME) if storage.is_folder(path) else path
    if not storage.is_file(file):
        raise UserError(f"{path} is not a run's folder: it has no {metrics.FILE_NAME}, which training writes")
    records = metrics.read(file)
    if not records:
        raise UserError(f"{file} is empty: the run has not reached its first log line (log_steps) yet")
    return Run(label=label, train=columns(records, split="train"), evaluation=columns(records, split="eval"))


def columns(records: list[metrics.Record], *, split: str) -> dict[str, np.ndarray]:
    """The records of a split as float64 arrays, one for each key; a missing value or null is NaN."""
    rows = [record for record in records if record["split"] == split]
    keys = ("step", "tokens", "loss", "step_seconds", *PANELS)
    return {key: np.array([row.get(key) for row in rows], dtype=np.float64) for key in keys}


def labels(paths: Sequence[str | Path]) -> list[str]:
    """The runs' names: of each path what differs, without the folders that all end in (a/model, b/model: a and b)."""
    folders = [str(path).removesuffix(metrics.FILE_NAME) for path in paths]
    parts = [
        PurePosixPath(path).parts if storage.is_remote(path) else Path(path or ".").resolve().parts for path in folders
    ]
    different = set(parts)
    while len(different) > 1 and min(map(len, parts)) > 2 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    length = 1
    while len({part[-length:] for part in parts}) < len(different):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def summary(run: Run) -> str:
    last = max(split["step"][-1] for split in (run.train, run.evaluation) if split["step"].size)
    losses = run.evaluation["loss"]
    return f"{run.label} ({last:,.0f} steps" + (f", eval loss {losses[-1]:.4f})" if losses.size else ")")


def draw(runs: list[Run], figure: Path, *, x: str, smooth: float | None, log_x: bool, log_y: bool) -> None:
    """Draws the runs into the file: the loss large, and beside it each panel for which there is something to show."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("drawing needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [key for key in PANELS if any(np.isfinite(run.train[key]).any() for run in runs)]
    with pyplot.rc_context(STYLE):
        mosaic: list[Any] = [["loss", key] for key in panels] or [["loss"]]
        widths = (1.9, 1.0) if panels else None
        canvas, axes = pyplot.subplot_mosaic(
            mosaic, figsize=(10, 5.6), width_ratios=widths, layout="constrained", sharex=True
        )
        unit, name = x_unit(runs, x)
        for index, run in enumerate(runs):
            draw_run(axes, run, x=x, unit=unit, smooth=smooth, color=COLORS[index % len(COLORS)], alone=len(runs) == 1)
        finish(axes, panels, x_name=name, alone=len(runs) == 1, log_x=log_x, log_y=log_y)
        save(canvas, figure)
        pyplot.close(canvas)


def x_unit(runs: list[Run], x: str) -> tuple[float, str]:
    """How much one unit of the x axis is, and what it is called."""
    if x != "time":
        return 1.0, x
    longest = max(run.x(run.train, x)[-1] for run in runs)
    return next((size, f"training time ({name})") for least, size, name in TIME_UNITS if longest >= least)


def draw_run(
    axes: dict[str, Any], run: Run, *, x: str, unit: float, smooth: float | None, color: str, alone: bool
) -> None:
    """Adds one run to each panel. Its training losses are drawn thin under their smooth curve."""
    at = run.x(run.train, x) / unit
    few = {"marker": "o", "markersize": 3} if at.size < 3 else {}
    loss, evaluation = run.train["loss"], run.evaluation["loss"]
    result = f"{evaluation[-1]:.3f}" if evaluation.size else ""
    if smooth is None:
        smooth = float(np.clip(1 - 20 / max(at.size, 1), 0, 0.9))  # a short curve has no noise to spare
    if smooth and at.size >= 3:
        axes["loss"].plot(at, loss, color=color, linewidth=0.8, alpha=0.3)
        loss = smoothed(loss, weight=smooth)
    label = "training" if alone else f"{run.label}  {result}"
    axes["loss"].plot(at, loss, color=color, linewidth=1.6, label=label, **few)
    if evaluation.size:
        marks = {"color": COLORS[1] if alone else color, "marker": "o", "markersize": 5, "markeredgecolor": "white"}
        label = f"evaluation, last {result}" if alone else None
        at_evaluation = run.x(run.evaluation, x) / unit
        axes["loss"].plot(at_evaluation, evaluation, linewidth=1.2, linestyle="--", label=label, zorder=3, **marks)
    for key in PANELS:
        if key in axes:
            axes[key].plot(at, run.train[key], color=color, linewidth=1.3, **few)


def smoothed(values: np.ndarray, *, weight: float) -> np.ndarray:
    """At each place the straight line that fits best there, a value d places away counting weight^d.

    Looking back and ahead alike, and for slopes, it lags neither behind a falling loss nor at the ends. NaN stays NaN
    and counts for nothing.
    """
    known = np.isfinite(values)
    reach = min(values.size - 1, math.ceil(math.log(1e-3) / math.log(weight)))
    distance = np.arange(-reach, reach + 1)
    kernel = weight ** np.abs(distance)

    def moment(sequence: np.ndarray, power: int) -> np.ndarray:
        return np.correlate(np.pad(sequence, reach), kernel * distance**power, "valid")

    mass, first, second = (moment(known.astype(np.float64), power) for power in range(3))
    total, product = (moment(np.where(known, values, 0.0), power) for power in range(2))
    determinant = mass * second - first**2
    alone = determinant < 1e-9
    line = (second * total - first * product) / np.where(alone, 1.0, determinant)
    return np.where(known & ~alone, line, values)


def finish(axes: dict[str, Any], panels: list[str], *, x_name: str, alone: bool, log_x: bool, log_y: bool) -> None:
    """Titles, legend, scales and ticks."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    axes["loss"].set_title("loss (nats per token)" if alone else "loss (nats per token); dots: evaluation")
    axes["loss"].legend(title=None if alone else "run, last evaluation", alignment="left")
    for key in panels:
        axes[key].set_title(PANELS[key])
        axes[key].set_ylim(bottom=0)
    if "lr" in axes:
        axes["lr"].yaxis.set_major_formatter("{x:g}")
    if "tokens_per_second" in axes:
        axes["tokens_per_second"].yaxis.set_major_formatter(EngFormatter(sep=""))
    if log_y:
        axes["loss"].set_yscale("log")
        axes["loss"].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
        axes["loss"].yaxis.set_major_formatter("{x:g}")
        axes["loss"].yaxis.set_minor_formatter(NullFormatter())
    for key in ("loss", *panels[-1:]):
        axes[key].set_xlabel(x_name)
    # The panels share one x axis: what is set for the loss holds for all.
    if log_x:
        axes["loss"].set_xscale("log", nonpositive="mask")
    else:
        axes["loss"].set_xlim(left=0)
        axes["loss"].xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes["loss"].xaxis.set_major_formatter(EngFormatter(sep=""))


def save(canvas: Any, figure: Path) -> None:
    """Writes the file under a temporary name first, so that a figure is whole or not there."""
    temporary = figure.with_name(figure.name + ".tmp")
    try:
        canvas.savefig(temporary, dpi=160, format=figure.suffix[1:].lower())
        os.replace(temporary, figure)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    run_program(main)
