"""Draws the curves of runs, follows them in a browser, and writes reports.

    python3 visualize.py runs/demo/model --figure curves.png
    python3 visualize.py runs/a runs/b --x time --figure compared.svg
    python3 visualize.py adam=runs/adam-* muon=runs/muon-* --figure seeds.pdf
    python3 visualize.py runs/a runs/b --live
    python3 visualize.py runs/demo/model --report

A run is its folder or a metrics.jsonl, here or in a bucket; also a json-log-plots.log of lopuhin/transformer-lm or a
model file of affjljoo3581/GPT2. The file type follows from the figure's suffix.
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
import sys
from pathlib import Path

from estimator import invocation, storage
from estimator.arguments import Parser, number
from estimator.errors import UserError, run_program
from estimator.plots import figure, live, report
from estimator.plots.runs import Group, left_out, load_groups, metrics_file, paths_of, vocabularies_differ
from estimator.storage import user_paths

MOST_KEYS = 5  # in which runs differ, named


def main() -> None:
    """Runs the command line."""
    arguments = parse_arguments()
    options = figure.Options(
        x=arguments.x,
        smooth=arguments.smooth,
        log_x=arguments.log_x,
        log_y=arguments.log_y,
        panels=arguments.panels or figure.DEFAULT,
        end=arguments.end,
        width=arguments.width,
        theme=figure.THEMES[arguments.theme],
        title=arguments.title,
    )
    if arguments.figure:
        check_figure(arguments.figure)
    if not arguments.live:
        for line in left_out(arguments.run):
            print(f"note: {line}", file=sys.stderr)
    if arguments.report:
        for folder in paths_of(arguments.run):
            print(report.write(folder))
    if arguments.live:
        live.serve(arguments.run, options, by_seed=arguments.seeds, port=arguments.port)
    if not arguments.figure:
        return
    groups = load_groups(arguments.run, by_seed=arguments.seeds)
    figure.save(groups, arguments.figure, options)
    for panel in arguments.panels or ():
        if not figure.has(groups, panel, options):
            print(f"note: no run has two points or more for the panel {panel}", file=sys.stderr)
    is_by_byte = vocabularies_differ(groups)
    if is_by_byte:
        print("note: the vocabularies differ, so losses per token do not compare; bits per byte do", file=sys.stderr)
    print(f"{arguments.figure}: " + ", ".join(summary(group, is_by_byte=is_by_byte) for group in groups))


def parse_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(__doc__)
    parser.add_argument("runs", type=str, nargs="*", metavar="RUN", help="run, or NAME=PATTERN for runs with one curve")
    parser.add_argument("--run", type=str, nargs="+", default=[], metavar="RUN", help="more runs")
    parser.add_argument("--figure", type=user_paths.argument, metavar="FILE", help="write a .png, .svg or .pdf")
    parser.add_argument("--report", action="store_true", help="write report.html into the folder of each run")
    parser.add_argument("--live", action="store_true", help="serve a page that follows the runs, on this machine only")
    parser.add_argument("--port", type=int, default=live.PORT, help="of --live; 0 takes a free one")
    parser.add_argument("--seeds", action="store_true", help="one curve for runs that differ only in the seed")
    parser.add_argument("--x", choices=figure.X_AXES, default="steps", help="quantity on the x axis")
    parser.add_argument("--smooth", type=number, help="smoothing factor from 0 (none) to 1; default: by length")
    parser.add_argument("--log_x", action="store_true", help="logarithmic x axis")
    parser.add_argument("--log_y", action="store_true", help="logarithmic loss axis")
    parser.add_argument(
        "--panels", nargs="+", choices=figure.PANELS, metavar="PANEL", help=f"some of {', '.join(figure.PANELS)}"
    )
    parser.add_argument("--end", type=number, default=figure.END, help="part of the x axis in the panel zoom")
    parser.add_argument("--theme", choices=figure.THEMES, default="light", help="colors")
    parser.add_argument("--width", type=number, default=11.0, help="inches")
    parser.add_argument("--title", default="", help="above the figure")
    arguments = parser.parse_args()
    arguments.run = [*arguments.runs, *arguments.run]
    if not arguments.run:
        parser.error(f"name a run: {invocation.program('visualize.py')} runs/demo/model --figure curves.png")
    if not arguments.live:  # which waits for runs that have not begun
        for path in paths_of(arguments.run):
            metrics_file(path)
    if not (arguments.figure or arguments.report or arguments.live):
        parser.error("say what to make: --figure curves.png, --live or --report")
    for name, least, most in (("smooth", 0, 1), ("end", 0.01, 1.001), ("width", 3, 40)):
        value = getattr(arguments, name)
        if value is not None and not least <= value < most:
            raise UserError(f"--{name} {value:g}: should be at least {least:g} and below {most:g}")
    return arguments


def check_figure(name: str) -> None:
    """Raises UserError for a bad figure name before any work is done."""
    if storage.is_remote(name):
        raise UserError(f"{name}: a figure is written to this machine; name a file here, and copy it")
    path = Path(name)
    if path.suffix.lower() not in figure.SUFFIXES:
        raise UserError(f"{path}: unknown figure format; use one of the suffixes {' '.join(figure.SUFFIXES)}")
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"{path}: {path.parent} is a file; name a file in a folder")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first: mkdir -p {path.parent}")


def summary(group: Group, *, is_by_byte: bool) -> str:
    """A line on a group: its steps and last evaluation loss. is_by_byte: also in bits per byte, if they are known."""
    losses = group.last_losses
    result = f", eval loss {losses.mean():.4f}{group.share}" if losses.size else ""
    if not losses.size and any(run.evaluation.has("loss") for run in group.runs):
        result = ", eval loss nan"
    if is_by_byte and (bits := group.last_values("bits_per_byte")).size:
        result += f", {bits.mean():.4f} bits per byte"
    keys = group.differences
    differ = f" that differ in {', '.join(keys[:MOST_KEYS])}" if keys else ""
    more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
    count = f"{group.count}{differ}{more}{';' if keys else ','} " if len(group.runs) > 1 else ""
    unit = "steps" if group.runs[0].train.has("step") or group.runs[0].evaluation.has("step") else "tokens"
    return f"{group.label} ({count}{max(run.last_step for run in group.runs):,.0f} {unit}{result})"


if __name__ == "__main__":
    run_program(main)
