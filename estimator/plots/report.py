"""Writes report.html into a run's folder: one file without scripts or outside resources, light or dark as the reader's
system. All text of the run is escaped.
"""

import html
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from estimator import storage
from estimator.errors import UserError, message
from estimator.json_text import CHECKSUM
from estimator.plots import figure, summary
from estimator.plots.columns import LARGEST
from estimator.plots.runs import EVALUATIONS, Group, Run, labels, load_run, objects
from estimator.training import metrics_log, metrics_writers, run_dir

FILE_NAME = "report.html"
SAMPLES = "samples"
MOST_STEPS = 12  # of samples, from the first to the last
MOST_ROWS = 30  # of a table
LONGEST_VALUE = 2000  # characters
NARROW_INCHES = 3.8  # width of the figure for phones
# Keys of an event that have a column, are its first words, or are digests and names for programs.
TOLD = ("step", "tokens", "split", "event", "time", "command", "value", "evaluation", "request")
# Variables of the page for the colors of the figure and of the bar.
SERIES = tuple(f"#0{index}c0{index}e" for index in range(7))
THEME = figure.Theme("#01a001", "#01a002", "#01a003", "none", SERIES)
VARIABLES = {"#01a001": "--ink", "#01a002": "--muted", "#01a003": "--line"} | {
    color: f"--series{index}" for index, color in enumerate(SERIES)
}
STYLE = """
:root { %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
* { box-sizing: border-box; }
body { background: var(--background); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1180px; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 36px 0 10px; }
p.note { color: var(--muted); margin: 2px 0 18px; }
dl.results { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 0; }
dl.results div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
dt { color: var(--muted); font-size: 13px; } dd { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.scroll::-webkit-scrollbar { height: 10px; } .scroll::-webkit-scrollbar-track { background: var(--panel); }
.scroll::-webkit-scrollbar-thumb { background: var(--muted); border-radius: 5px; }
svg { display: block; height: auto; width: 100%%; }
.narrow { display: none; max-width: 460px; }
table { border-collapse: collapse; font-size: 14px; } th { color: var(--muted); font-weight: 500; text-align: left; }
td, th { border-bottom: 1px solid var(--line); padding: 4px 16px 4px 0; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; text-align: right; } th.number { text-align: right; }
td.value { font-family: ui-monospace, monospace; font-size: 13px; } td.value, td.text { overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 8px; font-size: 13px; margin: 6px 0 12px; max-height: 420px;
  overflow: auto; padding: 10px 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
pre b { color: var(--series0); font-weight: 600; } summary { cursor: pointer; padding: 3px 0; }
.bar { border-radius: 6px; display: flex; height: 22px; margin-bottom: 14px; overflow: hidden; }
.key { border-radius: 3px; display: inline-block; height: 11px; margin-right: 8px; width: 11px; }
@media (max-width: 640px) {
  .wide { display: none; } .narrow { display: block; }
  table.values { table-layout: fixed; width: 100%%; } table.values td { overflow-wrap: anywhere; }
  table.stacked tr:first-child { display: none; }
  table.stacked, table.stacked tbody, table.stacked tr { display: block; }
  table.stacked tr { border-bottom: 1px solid var(--line); padding: 6px 0; }
  table.stacked td { border: 0; display: flex; gap: 16px; justify-content: space-between; overflow-wrap: anywhere;
    padding: 1px 0; }
  table.stacked td:empty { display: none; } table.stacked td::before { color: var(--muted); content: attr(data-name); }
}
"""


def conclusion(folder: str, *, is_written: bool) -> list[str]:
    """The results of a complete run and, if a report is written, where it is."""
    lines: list[str] = []
    try:
        lines += summary.table(load_run(folder, label=folder))
        lines += [f"report: {write(folder)}"] if is_written else []
    except (UserError, OSError) as error:  # the training is done, whatever there is to see of it
        lines.append(f"no report: {message(error)}")
    return lines


def write(folder: str) -> str:
    """Writes the report of a run's folder; returns its path. Raises UserError if the folder is not a run's."""
    if not storage.is_folder(folder):
        raise UserError(f"{folder}: a report is about a run's folder; give the folder that has {metrics_log.FILE_NAME}")
    path = storage.join(folder, FILE_NAME)
    storage.write_bytes_atomic(path, page(folder).encode(errors="replace"))
    return path


def page(folder: str) -> str:
    """The report as HTML."""
    run = load_run(folder, label=labels([folder])[0])
    sections = {
        "Curves": _curves(run),
        "Time": _time(run),
        "Samples": _samples(folder),
        "Evaluation": _evaluations(folder, run),
        "Events": _events(run),
        "Configuration": _values(run.config),
        "Environment": _values(_origin(folder)),
    }
    body = "".join(f"<section><h2>{title}</h2>{part}</section>\n" for title, part in sections.items() if part)
    cards = "".join(
        f"<div><dt>{text(line.name)}</dt><dd>{text(line.text)}</dd></div>"
        for line in summary.results(run)
        if line.name != "of which"
    )
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    # The policy lets the page load nothing and run nothing.
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{text(run.label)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>{style()}</style></head><body>
<h1>{text(run.label)}</h1><p class="note">{text(folder)}, written {now}</p>
<dl class="results">{cards}</dl>
{body}</body></html>
"""


def style() -> str:
    """The style sheet of the report and of the live page."""

    def variables(theme: figure.Theme, panel: str) -> str:
        colors = {"--ink": theme.ink, "--muted": theme.muted, "--line": theme.grid, "--background": theme.background}
        colors |= {f"--series{index}": color for index, color in enumerate(theme.series)}
        return " ".join(f"{name}: {color};" for name, color in (colors | {"--panel": panel}).items())

    light, dark = figure.THEMES["light"], figure.THEMES["dark"]
    return STYLE % {"light": variables(light, "#f4f5f7"), "dark": variables(dark, "#202329")}


def _curves(run: Run) -> str:
    """The figure, and for phones one with panels below each other, whose text is as large as the page's."""
    groups = [Group(run.label, [run])]
    drawings = {"wide": figure.Options(theme=THEME), "narrow": figure.Options(theme=THEME, width=NARROW_INCHES)}
    return "".join(f'<div class="{name}">{svg(groups, options)}</div>' for name, options in drawings.items())


def svg(groups: list[Group], options: figure.Options) -> str:
    """The figure as an element of a page, whose colors are the page's variables; a note without Matplotlib."""
    file = io.BytesIO()
    try:
        figure.write(groups, file, options, format="svg")
    except UserError as error:
        return f"<p>{text(error)}</p>"
    drawing = file.getvalue().decode()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    for size in ("width", "height"):
        drawing = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", drawing, count=1)
    return re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", drawing)


def _time(run: Run) -> str:
    spent = summary.time_spent(run)
    total = sum(spent.values())
    if not total:
        return ""
    colors = {kind: f"var(--series{index})" for index, kind in enumerate(summary.KINDS) if index < len(SERIES) - 1}
    colors |= {"start": "var(--muted)", "pause": "var(--ink)", "other": "var(--line)"}
    colors["lost"] = f"var(--series{len(SERIES) - 1})"
    bar = "".join(
        f'<div style="background: {colors[kind]}; width: {100 * seconds / total:.2f}%"></div>'
        for kind, seconds in spent.items()
    )
    rows = [
        [f'<span class="key" style="background: {colors[kind]}"></span>{text(summary.KINDS[kind])}',
         text(summary.duration(seconds)), f"{seconds / total:.1%}"]
        for kind, seconds in spent.items()
    ]  # fmt: skip
    note = (
        "Goodput is the share of time spent on training that lasts. The start and the compilation take as long in a "
        "short run as in a long one."
    )
    return f'<p class="note">{note}</p><div class="bar">{bar}</div>{table(["", "time", "share"], rows)}'


def _samples(folder: str) -> str:
    """The samples of up to MOST_STEPS steps, the last ones open."""
    paths = storage.children(storage.join(folder, SAMPLES), "*.jsonl")
    steps = {int(name): path for path in paths if (name := path.rpartition("/")[2].removesuffix(".jsonl")).isdecimal()}
    shown = sorted(steps)
    if len(shown) > MOST_STEPS:
        shown = [shown[round(i)] for i in np.linspace(0, len(shown) - 1, MOST_STEPS)]
    parts = []
    for step in reversed(shown):
        texts = "".join(
            f"<pre><b>{text(row.get('prompt', ''))}</b>{text(row.get('text', ''))}</pre>"
            for row in objects(steps[step])
        )
        is_open = " open" if step == shown[-1] else ""
        parts.append(f"<details{is_open}><summary>step {step:,}</summary>{texts}</details>")
    return "".join(parts)


def _evaluations(folder: str, run: Run) -> str:
    """The run's own evaluations, and results of tasks and files."""
    names = [key for key in ("loss", "perplexity", "bits_per_byte") if run.evaluation.has(key)]
    steps = run.evaluation["step"]
    shown = np.unique(np.linspace(0, len(steps) - 1, min(MOST_ROWS, len(steps))).round().astype(int))
    rows = [
        [f"{steps[i]:,.0f}", *(metrics_writers.readable(run.evaluation[name][i], 4) for name in names)]
        for i in reversed(shown)
    ]
    own = table(["step", *(name.replace("_", " ") for name in names)], rows) if rows else ""
    records = objects(storage.join(folder, EVALUATIONS))[-MOST_ROWS:]
    keys = list(
        dict.fromkeys(key for record in records for key in record if not re.match("time$|loss_(by_|[0-9])", key))
    )
    rows = [[text(_short(record.get(key, ""))) for key in keys] for record in reversed(records)]
    more = table([text(key) for key in keys], rows, layout="stacked") if rows else ""
    return own + (more and f"<h3>Tasks and files</h3>{more}")


def _events(run: Run) -> str:
    """What happened besides training and evaluation, the latest first."""
    rows = []
    for event in reversed(run.events[-10 * MOST_ROWS :]):
        time = event.get("time")
        stamp = datetime.fromtimestamp(time, UTC) if isinstance(time, int | float) and 0 < time < 1e11 else None
        when = f"{stamp:%Y-%m-%d %H:%M}" if stamp else ""
        rows.append([text(event["step"]), text(event.get("event", event["split"])), when, text(_detail(event))])
    return table(["step", "event", "UTC", ""], rows[:MOST_ROWS], kinds=("number", "", "", "text")) if rows else ""


def _detail(event: dict[str, Any]) -> str:
    """The rest of an event in words: "lr 0.001", "start 12 s"."""
    parts = [" ".join(_short(event[key]) for key in ("command", "value") if key in event)]
    for key, value in event.items():
        name = key.removesuffix("_seconds")
        if name != key and isinstance(value, int | float) and abs(value) < LARGEST:
            parts.append(f"{summary.KINDS.get(name, name)} {summary.duration(value)}")
        elif isinstance(value, bool):
            parts.append(("" if value else "not ") + key.removeprefix("is_").replace("_", " "))
        elif key not in TOLD:
            parts.append(f"{key.replace('_', ' ')} {_short(value)}")
    return ", ".join(filter(None, parts))


def _origin(folder: str) -> dict[str, Any]:
    path = storage.join(folder, run_dir.ORIGIN)
    found = next(iter(objects(path, whole=True)), {})
    return {key: value for key, value in found.items() if key != CHECKSUM}


def _values(values: dict[str, Any]) -> str:
    # A long name may be divided behind an underscore.
    rows = [[text(key).replace("_", "_<wbr>"), _cell(value)] for key, value in values.items()]
    return table(["key", "value"], rows, kinds=("", "value"), layout="values") if rows else ""


def _cell(value: Any) -> str:
    """A value as HTML; notes of the console, which have blanks, are a line each."""
    if isinstance(value, list) and value and all(isinstance(line, str) and " " in line for line in value):
        return "<br>".join(text(_short(line)) for line in value)
    return text(_short(value))


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, kinds: Sequence[str] = (), layout: str = "scrolled"
) -> str:
    """A table; its cells are HTML. kinds: classes of the columns, by default those of numbers.

    layout: what a table that is too wide for a phone does there: "scrolled"; "stacked", a line for each cell; "values",
    two columns of which both are divided into lines.
    """
    if not kinds:
        numbers = [
            all(re.fullmatch(r"[-+\d.,%:e]*( s)?", cell) for cell in column) for column in zip(*rows, strict=True)
        ]
        kinds = ["number" if is_number else "" for is_number in numbers]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="{kind}" data-name="{name}">{cell}</{tag}>'
            for cell, kind, name in zip(row, kinds, header, strict=True)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{layout}"><tr>{cells("th", header)}</tr>{lines}</table></div>'


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= LONGEST_VALUE else f"{shown[:LONGEST_VALUE]}…"


def text(value: object) -> str:
    """A value as HTML."""
    return html.escape(str(value))
