"""Draws runs with Matplotlib: loss in full, on a logarithmic axis and at its end, and what happened meanwhile."""

import contextlib
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from estimator import storage
from estimator.errors import import_failed
from estimator.plots import curves
from estimator.plots.columns import Columns
from estimator.plots.runs import Group, Run, vocabularies_differ

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".pdf", ".png", ".svg")
X_AXES = ("steps", "tokens", "flops", "time")
# Each panel's title; those of one quantity are called after its key.
PANELS = {
    "loss": "loss (nats per token)", "log": "loss, logarithmic axis", "zoom": "loss, last {0:.0%}",
    "position": "mean loss of first N positions", "lr": "learning rate", "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second", "mfu": "model FLOPs utilization", "input_wait": "waiting for input",
}  # fmt: skip
LOSSES = ("loss", "log", "zoom")
DEFAULT = tuple(panel for panel in PANELS if panel != "input_wait")
END = 0.3  # part of the x axis that the panel "zoom" shows
TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # styles of the first runs, the next ones, ...
LONGEST_LABEL = 44  # characters
ROW_INCHES = (3.6, 2.4)  # height of the first row and of the others
LEAST_INCHES = 2.5  # width of a panel, so that the labels of its axis have room
OTHER_TOKENS = "\nvocabularies differ: losses per token do not compare"
LEGEND_LINE_INCHES = 0.24
HANDLE_INCHES, CHARACTERS_PER_INCH = 0.8, 11.5  # of an entry of the legend: its line, and its text
MOST_SPREAD = 0.5  # of the losses at the ends of several runs, as a part of all losses, that the panel "zoom" enlarges


@dataclass(frozen=True)
class Theme:
    """Colors of a figure. series: color-blind-safe, after Okabe and Ito, without those too faint on the background."""

    ink: str
    muted: str
    grid: str
    background: str
    series: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#1a1a1a", "#555555", "#e4e4e4", "#ffffff",
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    ),
    "dark": Theme(
        "#eeeeee", "#aaaaaa", "#3a3d42", "#16181c",
        ("#56B4E9", "#E69F00", "#2EC795", "#E08FBF", "#F0E442", "#7C93FF", "#FFFFFF"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """x: an entry of X_AXES. smooth: weight of a neighboring point, None chooses. end: part that "zoom" shows."""

    x: str = "steps"
    smooth: float | None = None
    log_x: bool = False
    log_y: bool = False
    panels: Sequence[str] = DEFAULT
    end: float = END
    width: float = 11.0  # inches
    theme: Theme = THEMES["light"]
    title: str = ""


def require_matplotlib() -> None:
    """Raises UserError if Matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise import_failed(error, "drawing needs matplotlib; install it with: pip install matplotlib") from error


def write(groups: list[Group], file: IO[bytes], options: Options, *, format: str) -> None:
    """Draws the groups into an open file as png, svg or pdf. Raises UserError if an option does not fit the runs."""
    require_matplotlib()
    with style(options.theme):
        canvas = draw(groups, options)
        # Without a date, the same runs give the same file.
        metadata = {"Date": None} if format == "svg" else {"CreationDate": None} if format == "pdf" else None
        canvas.savefig(file, dpi=160, format=format, metadata=metadata)


def save(groups: list[Group], path: str, options: Options) -> None:
    """Writes a figure, whose suffix is its format; the file appears complete or not at all."""
    with storage.new_file(path) as file:
        write(groups, file, options, format=path.rpartition(".")[2].lower())


@contextlib.contextmanager
def style(theme: Theme) -> Iterator[None]:
    import matplotlib

    settings = {
        "font.size": 10.5, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.8, "legend.frameon": False,
        "svg.fonttype": "none", "svg.hashsalt": "gpt2", "pdf.fonttype": 42, "text.color": theme.ink,
        "axes.titlecolor": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "grid.color": theme.grid,
        "figure.facecolor": theme.background, "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def draw(groups: list[Group], options: Options) -> "Figure":
    """The figure: a first row of one or two panels of the loss, and rows of smaller panels that have data."""
    from matplotlib.figure import Figure

    panels = [panel for panel in options.panels if has(groups, panel, options)] or ["loss"]
    rows = _rows(panels, int(options.width / LEAST_INCHES))
    columns = math.lcm(3, *map(len, rows))
    mosaic: list[Any] = [[name for name in row for _ in range(columns // len(row))] for row in rows]
    if len(rows[0]) == 2:  # the loss twice as wide as the panel next to it
        mosaic[0] = [rows[0][int(i >= columns * 0.62)] for i in range(columns)]
    heights = [ROW_INCHES[0], *[ROW_INCHES[1]] * (len(rows) - 1)]
    height = sum(heights) + (0.4 if options.title else 0)
    canvas = Figure(figsize=(options.width, height), layout="constrained")
    axes = canvas.subplot_mosaic(mosaic, height_ratios=heights)
    unit, x_name = _x_unit(groups, options.x)
    painter = _Painter(options, unit, alone=len(groups) == 1 and len(groups[0].runs) == 1)
    for index, group in enumerate(groups):
        color = options.theme.series[index % len(options.theme.series)]
        style = LINES[index // len(options.theme.series) % len(LINES)]
        for panel in panels:
            painter.add(axes[panel], panel, group, color=color, style=style)
    for panel in panels:
        painter.finish(axes[panel], panel, x_name=x_name)
    _add_legend(canvas, axes[panels[0]], painter, note=OTHER_TOKENS if vocabularies_differ(groups) else "")
    if options.title:
        canvas.suptitle(_plain(options.title), x=0.01, horizontalalignment="left", fontsize=13)
    return canvas


def has(groups: list[Group], panel: str, options: Options) -> bool:
    """Whether any run has a curve in a panel: two points."""
    runs = [run for group in groups for run in group.runs]
    if panel == "log":
        return not options.log_x and max(run.train.rows for run in runs) >= 20
    if panel == "zoom":
        is_long = max(run.train.rows for run in runs) >= 20
        return is_long and (options.panels != DEFAULT or _ends_are_close(runs, options))
    if panel == "position":
        return any(len(_by_position(run)) > 1 for run in runs)
    return panel == "loss" or any(np.isfinite(run.train[panel]).sum() > 1 for run in runs)


def _ends_are_close(runs: list[Run], options: Options) -> bool:
    """Whether the ends of all runs are at the same x, and their losses closer to each other than all losses are.

    Otherwise a panel of the ends shows them at its edges, smaller than the panel of all losses does.
    """
    runs = [run for run in runs if run.train.has("loss")]
    last = [run.x(run.train, options.x)[-1] for run in runs]
    if len(runs) < 2 or not (1 - options.end) * max(last) < min(last):
        return len(runs) < 2
    losses = [run.train["loss"] for run in runs]
    ends = [_finite([loss[-max(1, int(options.end * loss.size)) :]]) for loss in losses]
    medians = [np.median(end) for end in ends if end.size]  # without the runs that diverged
    low, high = _typical(np.concatenate(losses))
    return bool(medians) and bool(np.ptp(medians) <= MOST_SPREAD * (high - low))


def _rows(panels: list[str], columns: int) -> list[list[str]]:
    """Panels in rows: the loss first, with the zoom if there is one; then up to four a row, evenly.

    columns: how many there is room for, at least three of them for the loss and the zoom.
    """
    first = [panel for panel in ("loss", "zoom") if panel in panels] if panels[0] == "loss" else panels[:1]
    first = first if columns >= 3 else first[:1]
    rest = [panel for panel in panels if panel not in first]
    if not rest:
        return [first]
    count = math.ceil(len(rest) / min(4, max(1, columns)))
    return [first, *(list(part) for part in np.array_split(rest, count))]


def _x_unit(groups: list[Group], x: str) -> tuple[float, str]:
    """Scale and label of the x axis."""
    if x != "time":
        return 1.0, {"flops": "FLOPs of training"}.get(x, x)
    runs = [run for group in groups for run in group.runs]
    longest = max((float(np.nanmax(run.x(run.train, x))) for run in runs if run.train.rows), default=0.0)
    return next((size, f"training time ({name})") for least, size, name in TIME_UNITS if longest >= least)


def _by_position(run: Run) -> dict[int, float]:
    """Mean loss of the first positions in the last evaluation that has it, or else over the end of training."""
    for row in reversed(range(run.evaluation.rows)):
        if losses := run.evaluation.losses_by_position(row):
            return losses
    if run.losses_by_position:
        return run.losses_by_position
    last = [run.train.losses_by_position(row) for row in range(max(0, run.train.rows - 20), run.train.rows)]
    return {tokens: float(np.mean([each[tokens] for each in last if tokens in each])) for tokens in (last or [{}])[-1]}


class _Painter:
    """Draws groups of runs into panels. alone: whether the figure shows a single run. unit: scale of the x axis."""

    def __init__(self, options: Options, unit: float, *, alone: bool):
        self.options, self.unit, self.alone = options, unit, alone
        self.entries: list[tuple[Any, str, str]] = []  # of the legend: a name, and what follows it
        self._limits: defaultdict[str, list[np.ndarray]] = defaultdict(list)  # y values that must be seen, by panel

    def add(self, axes: "Axes", panel: str, group: Group, *, color: str, style: Any) -> None:
        """Adds a group to a panel."""
        if panel == "position":
            self._add_positions(axes, group, color, style)
        elif panel in LOSSES:
            self._add_loss(axes, panel, group, color, style)
        else:
            self._add_curve(axes, panel, panel, group, color, style)

    def _series(self, run: Run, split: Columns, key: str, panel: str) -> curves.Binned:
        x, y = run.x(split, self.options.x) / self.unit, split[key]
        if panel == "zoom" and x.size:
            ends = run.x(run.train if run.train.rows else split, self.options.x) / self.unit
            x, y = x[x >= (1 - self.options.end) * ends[-1]], y[x >= (1 - self.options.end) * ends[-1]]
        return curves.binned(x, y, log=self._is_log(panel))

    def _is_log(self, panel: str) -> bool:
        return panel == "log" or (self.options.log_x and panel not in ("zoom", "position"))

    def _smooth(self, values: np.ndarray, panel: str) -> np.ndarray:
        if panel == "lr":  # has no noise
            return values
        weight = self.options.smooth
        weight = curves.default_weight(values.size) if weight is None else weight
        # Only at the beginning of a run does a loss fall too fast for a wide window.
        return (curves.smoothed if panel == "zoom" else curves.smoothed_curve)(values, weight=weight)

    def _add_curve(self, axes: "Axes", panel: str, key: str, group: Group, color: str, style: Any) -> Any:
        """Adds the smoothed training curve over its raw points, or the runs' mean over their range."""
        series = [self._series(run, run.train, key, panel) for run in group.runs]
        curve = [(each.x, self._smooth(each.mean, panel)) for each in series]
        if len(curve) > 1:
            mean = curves.band(curve, log=self._is_log(panel))
            x, y = mean.x, mean.mean
            axes.fill_between(x, mean.low, mean.high, color=color, alpha=0.22, linewidth=0)
            self._limits[panel].append(_typical(np.concatenate([mean.low, mean.high])))
        else:
            x, y = curve[0]
            raw = series[0]
            if not np.array_equal(y, raw.low, equal_nan=True):
                ends = np.stack([raw.low, raw.high], 1).ravel()
                axes.plot(np.repeat(raw.x, 2), ends, color=color, linewidth=0.7, alpha=0.28 if self.alone else 0.16)
                self._limits[panel].append(_typical(ends))
        self._limits[panel].append(y)
        marker = "o" if x.size < 3 else ""
        return axes.plot(x, y, color=color, linewidth=1.6, linestyle=style, marker=marker, markersize=3)[0]

    def _add_loss(self, axes: "Axes", panel: str, group: Group, color: str, style: Any) -> None:
        line = self._add_curve(axes, panel, "loss", group, color, style)
        evaluated = [run for run in group.runs if run.evaluation.has("loss")]
        series = [self._series(run, run.evaluation, "loss", panel) for run in evaluated]
        marks = None
        if series:
            mean = series[0] if len(series) == 1 else curves.band([(each.x, each.mean) for each in series])
            look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markeredgecolor": self.options.theme.background}
            look["markevery"] = max(1, mean.x.size // 20)
            color = self.options.theme.series[1] if self.alone else color
            dashed = {"linewidth": 1.1, "linestyle": (0, (3, 1.5)), "color": color, "zorder": 3}
            marks = axes.plot(mean.x, mean.mean, **dashed, **look)[0]
            self._limits[panel].append(mean.mean)
        if not axes.get_subplotspec() or panel != self.options.panels[0]:
            return
        result = _result(group)
        if not self.alone:
            count = f" ({group.count})" if len(group.runs) > 1 else ""
            self.entries.append((line, group.label, f"{count}  {result}".rstrip()))
        else:
            self.entries.append((line, "training", ""))
            if marks:
                self.entries.append((marks, f"evaluation, last {result}", ""))

    def _add_positions(self, axes: "Axes", group: Group, color: str, style: Any) -> None:
        found = [losses for run in group.runs if (losses := _by_position(run))]
        if not found:
            return
        tokens = sorted(set.intersection(*map(set, found)))
        losses = np.array([[each[n] for n in tokens] for each in found])
        axes.plot(tokens, losses.mean(0), color=color, linestyle=style, marker="o", markersize=4)
        if len(found) > 1:
            axes.fill_between(tokens, losses.min(0), losses.max(0), color=color, alpha=0.22, linewidth=0)

    def finish(self, axes: "Axes", panel: str, *, x_name: str) -> None:
        """Sets the title, scales, limits and ticks of a panel."""
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes.set_title(PANELS[panel].format(self.options.end))
        if panel == "position":
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("N")
            return
        axes.set_xlabel(x_name)
        if self._is_log(panel) and axes.dataLim.minposx < np.inf:
            axes.set_xscale("log", nonpositive="mask")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            if panel != "zoom":
                axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_flops if self.options.x == "flops" else EngFormatter(sep=""))
        if panel in LOSSES:
            self._finish_loss(axes, panel)
            return
        seen = _finite(self._limits[panel])
        axes.set_ylim(0, 1.08 * seen.max() if seen.size and seen.max() > 0 else None)
        if panel in ("mfu", "input_wait"):
            axes.yaxis.set_major_formatter(lambda value, position: f"{100 * value:g}%")
        else:
            axes.yaxis.set_major_formatter("{x:g}" if panel != "tokens_per_second" else EngFormatter(sep=""))

    def _finish_loss(self, axes: "Axes", panel: str) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        seen = _finite(self._limits[panel])
        if seen.size and seen.min() < seen.max():
            margin = 0.05 * (seen.max() - seen.min())
            low = seen.min() / 1.05 if self.options.log_y else seen.min() - margin
            if low > 0 or not self.options.log_y:
                axes.set_ylim(low, seen.max() + margin)
        if self.options.log_y and panel != "zoom" and axes.dataLim.minposy < np.inf:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())


def _add_legend(canvas: "Figure", axes: "Axes", painter: _Painter, *, note: str) -> None:
    handles = [handle for handle, _, _ in painter.entries]
    if painter.alone:
        axes.legend(handles, [name for _, name, _ in painter.entries], loc="upper right")
    elif handles:
        most = max(12, int((painter.options.width - HANDLE_INCHES) * CHARACTERS_PER_INCH))
        labels = [_shortened(name, max(12, most - len(rest))) + rest for _, name, rest in painter.entries]
        labels = [_plain(textwrap.fill(label, most, break_on_hyphens=False)) for label in labels]
        lines = f"run and its last evaluation loss; dots: evaluation{note}".splitlines()
        title = "\n".join(textwrap.fill(line, most + 4) for line in lines)
        column = HANDLE_INCHES + max(map(len, labels)) / CHARACTERS_PER_INCH
        columns = max(1, min(3, int(painter.options.width / column)))
        canvas.legend(handles, labels, loc="outside upper left", ncols=columns, title=title, alignment="left")
        rows = math.ceil(len(labels) / columns) * max(1 + label.count("\n") for label in labels) + title.count("\n")
        canvas.set_figheight(canvas.get_figheight() + LEGEND_LINE_INCHES * rows)


def _finite(parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate([*parts, np.array([])])
    return values[np.isfinite(values)]


def _typical(values: np.ndarray) -> np.ndarray:
    """The values without the one percent of outliers, which would flatten the rest."""
    values = values[np.isfinite(values)]
    return np.quantile(values, [0.005, 0.995]) if values.size else values


def _result(group: Group) -> str:
    """Last evaluation loss, with the standard deviation over runs."""
    losses = group.last_losses
    if not losses.size:
        return "nan" if any(run.evaluation.has("loss") for run in group.runs) else ""
    return f"{losses.mean():.3f}" + (f" ± {losses.std(ddof=1):.3f}" if losses.size > 1 else "") + group.share


def _shortened(label: str, most: int) -> str:
    half = min(most, LONGEST_LABEL) // 2
    return label if len(label) <= 2 * half else f"{label[: half - 1]}…{label[-half:]}"


def _plain(text: str) -> str:
    """Text as it is: Matplotlib takes $ for mathematics and hides labels that begin with an underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _flops(value: float, position: float) -> str:
    return f"{value:.3g}".replace("e+", "e")
