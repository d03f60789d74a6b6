"""The table and the figure of a sweep."""

import csv
import importlib.util
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from estimator import storage
from estimator.plots.figure import THEMES, style
from estimator.search.sweep_config import Range, SweepConfig
from estimator.search.trials import Trial, TrialStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE, FIGURE = "trials.csv", "sweep.png"
SHOWN, MOST_CELL = 20, 60  # rows of the printed table, characters of a cell
MOST_REASONS = 3  # printed whole below the table
MOST_PANELS = 7
FEW = 20  # trials; of more, the worst tenth may be above the figure
ORDER = {"complete": 0, "pruned": 1, "running": 2, "failed": 3}


def report(plan: SweepConfig, store: TrialStore) -> str:
    """Writes trials.csv and, with Matplotlib, sweep.png; returns the printed table, best trials first."""
    trials = sorted(store.trials, key=lambda each: (ORDER[each.state], _loss(each), each.number))
    header = ["trial", "state", plan.metric, "step", "seconds", *plan.parameters, "reason"]
    rows = [
        [trial.name, trial.state, "" if trial.loss is None else f"{trial.loss:.4f}", str(trial.step),
         f"{trial.seconds:.0f}", *[short(trial.values[key]) for key in plan.parameters], trial.reason]
        for trial in trials
    ]  # fmt: skip
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    storage.write_bytes_atomic(store.folder / TABLE, text.getvalue().encode())
    lines = _aligned([header, *rows[:SHOWN]])
    if len(rows) > SHOWN:
        lines.append(f"and {len(rows) - SHOWN} more")
    cut: dict[str, str] = {}  # the first trial of each
    for trial in trials:
        if len(trial.reason) > MOST_CELL:
            cut.setdefault(trial.reason, trial.name)
    lines += [f"{name}: {reason}" for reason, name in cut.items()][:MOST_REASONS]
    lines.append(f"all trials: {store.folder / TABLE}")
    if importlib.util.find_spec("matplotlib") and any(trial.loss is not None for trial in trials):
        storage.write_bytes_atomic(store.folder / FIGURE, draw(plan, store.trials))
        lines.append(f"figure: {store.folder / FIGURE}")
    if trials and trials[0].state == "complete":
        lines.append(f"best: {store.folder / trials[0].name}.json, {outcome(trials[0], plan.metric)}")
    return "\n".join(lines)


def outcome(trial: Trial, metric: str) -> str:
    """A trial's result in words."""
    loss = "" if trial.loss is None else f"{metric} {trial.loss:.4f} at step {trial.step}"
    state = "interrupted" if trial.state == "running" else trial.state
    return ", ".join(part for part in (state, loss, trial.reason) if part)


def short(value: Any) -> str:
    """A value of a key, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _loss(trial: Trial) -> float:
    return float("inf") if trial.loss is None or np.isnan(trial.loss) else trial.loss


def _aligned(rows: list[list[str]]) -> list[str]:
    rows = [[cell if len(cell) <= MOST_CELL else f"{cell[: MOST_CELL - 3]}..." for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw(plan: SweepConfig, trials: list[Trial]) -> bytes:
    """The figure as PNG: the results in the order of the trials, and against each parameter."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    known = [trial for trial in trials if trial.loss is not None and np.isfinite(trial.loss)]
    keys = list(plan.parameters)[: MOST_PANELS - 1]
    columns = 2 if len(keys) in (1, 3) else min(len(keys) + 1, 3)
    rows = -(-(len(keys) + 1) // columns)
    file = io.BytesIO()
    with style(THEMES["light"]):
        canvas = Figure(figsize=(3.7 * columns, 3.3 * rows), layout="constrained")
        axes = canvas.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        _scatter(axes[0], known, np.array([trial.number for trial in known]))
        best = np.minimum.accumulate([_loss(each) if each.state == "complete" else np.inf for each in known])
        axes[0].step(
            [trial.number for trial in known], best, where="post", color="#1a1a1a", linewidth=1.2, label="best"
        )
        axes[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes[0].set_title(f"{plan.metric} by trial")
        axes[0].set_xlabel("trial")
        for panel, key in zip(axes[1:], keys, strict=False):
            _by_parameter(panel, plan, known, key)
        for panel in axes[len(keys) + 1 :]:
            panel.set_visible(False)
        losses = np.array([_loss(trial) for trial in known])
        low, high = losses.min(), np.quantile(losses, 1.0 if len(losses) < FEW else 0.9)
        margin = 0.08 * (high - low) + 1e-3
        axes[0].set_ylim(low - margin, high + 3 * margin)
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        canvas.savefig(file, dpi=160, format="png")
    return file.getvalue()


def _by_parameter(panel: "Axes", plan: SweepConfig, known: list[Trial], key: str) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    part = plan.parameters[key]
    panel.set_title(key)
    if isinstance(part, Range):
        _scatter(panel, known, np.array([trial.values[key] for trial in known], np.float64))
        if part.log:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.xaxis.set_major_formatter("{x:g}")
            margin = (part.max / part.min) ** 0.04
            panel.set_xlim(part.min / margin, part.max * margin)
        else:
            margin = 0.04 * (part.max - part.min)
            panel.set_xlim(part.min - margin, part.max + margin)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=part.is_integer))
        return
    names = [short(value) for value in part]
    _scatter(panel, known, np.array([names.index(short(trial.values[key])) for trial in known]))
    panel.set_xticks(range(len(names)), [name if len(name) <= 12 else f"{name[:10]}..." for name in names])
    panel.set_xlim(-0.5, len(names) - 0.5)


def _scatter(panel: "Axes", known: list[Trial], x: np.ndarray) -> None:
    """Complete trials as dots, pruned ones as open circles at the loss where they were stopped."""
    colors = THEMES["light"].series
    for state, face, edge in (("complete", colors[0], colors[0]), ("pruned", "none", colors[1])):
        chosen = np.array([trial.state == state for trial in known], bool)
        if chosen.any():
            losses = np.array([trial.loss for trial in known])[chosen]
            panel.scatter(x[chosen], losses, s=26, zorder=3, label=state, facecolors=face, edgecolors=edge)
