"""Measures speed and memory as batch, context, depth and width grow.

python -m benchmarks.growth                       a figure and a JSON file in runs/growth; a few minutes on a CPU
python -m benchmarks.growth --out DIR --axes n_ctx depth      only some; --set KEY=VALUE: with another key

Each point is a training step of ours in a process of its own, so that its largest memory is its own. Points whose
estimated memory exceeds the machine's are skipped and reported. The dashed lines are what the FLOPs of
a token alone would make of the best point of an axis; the exponents are printed next to those of the FLOPs.
"""

import argparse
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import Worker, WorkerError

# From a model of 4 layers, 256 wide; on GPUs from 124M. Values of each axis, and (sequences, tokens) for each.
POINTS: dict[str, dict[str, tuple[int, ...]]] = {
    "cpu": {
        "batch": (1, 2, 4, 8, 16, 32),
        "n_ctx": (256, 512, 1024, 2048, 4096, 8192),
        "depth": (1, 2, 4, 8, 16),
        "width": (128, 256, 512, 1024),
    },
    "gpu": {
        "batch": (1, 4, 16, 32, 64, 96),
        "n_ctx": (256, 512, 1024, 2048, 4096, 8192),
        "depth": (3, 6, 12, 24, 48),
        "width": (384, 768, 1536, 3072),
    },
    "smoke": {"batch": (2,)},
}
BASE = {"cpu": (4, 256, 4, 256), "gpu": (12, 768, 16, 1024), "smoke": (1, 32, 2, 16)}  # layers, width, batch, n_ctx
HEAD = {"cpu": 64, "gpu": 64, "smoke": 16}  # width of a head
SECONDS = {"cpu": 2.0, "gpu": 1.0, "smoke": 0.02}  # of timed steps at a point, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / "growth", metavar="DIR", help="%(default)s")
    parser.add_argument("--axes", nargs="*", choices=POINTS["cpu"], default=[], help="all by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of ours; repeatable")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    machine = describe()
    kind = "smoke" if arguments.smoke else "cpu" if machine["platform"] == "cpu" else "gpu"
    rows = [
        row
        for axis, values in POINTS[kind].items()
        if not arguments.axes or axis in arguments.axes
        for value in values
        if (row := measured(axis, value, kind, arguments.set))
    ]
    say("\n" + table(rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure = arguments.out / "growth.png"
    (arguments.out / "growth.json").write_text(json.dumps(rows, indent=2) + "\n")
    if installed("matplotlib"):
        draw(rows, figure)
        say(f"{figure} and {figure.with_suffix('.json')}")
    finish(
        "growth",
        "tokens/s of training, the most of all points",
        max((row["tokens_per_s"] for row in rows), default=None),
        {},
        device=machine["kind"] if machine["platform"] != "cpu" else processor(),
        packages=("jax", "jaxlib", "matplotlib"),
        details={"rows": rows, "base_layers_width_batch_n_ctx": BASE[kind], "exponents": exponents(rows)},
    )


def describe() -> dict[str, Any]:
    worker = Worker("benchmarks._train_workers", "ours", {"size": "tiny", "n_ctx": 32, "batch": 2})
    try:
        return worker.ask("describe")
    finally:
        worker.close()


def measured(axis: str, value: int, kind: str, changes: list[str]) -> dict[str, Any] | None:
    """One point: seconds of a step, the process's largest memory, the compilation's seconds."""
    layers, width, batch, n_ctx = BASE[kind]
    point = {"depth": layers, "width": width, "batch": batch, "n_ctx": n_ctx} | {axis: value}
    if axis == "n_ctx":  # the same tokens, as far as that goes
        point["batch"] = max(1, batch * n_ctx // value)
    size = {"smoke": "tiny", "cpu": "small", "gpu": "124M"}[kind]  # of which the vocabulary is taken
    needed = estimate(point, SIZES[size].padded_vocab)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if kind == "cpu" else float("inf")
    if needed > 0.7 * memory:
        say(f"{axis} {value}: left out, it would take about {needed / 1e9:.0f} GB")
        return None
    options = {"size": size, "n_ctx": point["n_ctx"], "batch": point["batch"], "changes": changes}
    worker = Worker("benchmarks._train_workers", "ours", options)
    shape = {"n_layer": point["depth"], "n_embd": point["width"], "n_head": point["width"] // HEAD[kind]}
    try:
        variant = worker.ask("variants")[-1]
        ready = worker.ask("prepare", variant=variant, **shape)
        once = worker.ask("steps", count=1)["seconds"]
        count = max(1, round(SECONDS[kind] / 3 / once))
        seconds = statistics.median(worker.ask("steps", count=count)["seconds"] for _ in range(3))
        row = {"axis": axis, "value": value, "step_ms": 1e3 * seconds}
        row |= {"tokens_per_s": point["batch"] * point["n_ctx"] / seconds, "peak_MB": worker.ask("memory") / 1e6}
        row |= {"flops_per_token": flops_per_token(point, SIZES[size].padded_vocab)}
        row |= {"first_s": ready["seconds"], "parts": ready["accumulation"], **point}
    except WorkerError as error:
        say(f"{axis} {value}: {error}")
        return None
    finally:
        worker.close()
    say(f"{axis} {value}: {row['tokens_per_s']:,.0f} tokens/s, {row['peak_MB']:,.0f} MB")
    return row


def estimate(point: dict[str, int], vocabulary: int) -> float:
    """Bytes of parameters with gradient and averages, and of one sequence's inputs of products and logits: what
    cannot be cut further."""
    depth, width = point["depth"], point["width"]
    return 16.0 * (12 * depth * width**2 + vocabulary * width) + point["n_ctx"] * (
        26.0 * depth * width + 8 * vocabulary
    )


def flops_per_token(point: dict[str, int], vocabulary: int) -> float:
    """Six for each number of a matrix; twelve for each number that attention reads, of which the mask leaves half."""
    matrices = 12 * point["depth"] * point["width"] ** 2 + vocabulary * point["width"]
    return 6.0 * matrices + 6.0 * point["depth"] * point["width"] * point["n_ctx"]


def exponents(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How a token's seconds and FLOPs and the memory grow from an axis's first point to its last: as value to this
    power."""
    found = {}
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = [row for row in rows if row["axis"] == axis]
        first, last = own[0], own[-1]
        if first["value"] == last["value"]:
            continue
        grown = math.log(last["value"] / first["value"])
        found[axis] = {
            "seconds_of_a_token": math.log(first["tokens_per_s"] / last["tokens_per_s"]) / grown,
            "flops_of_a_token": math.log(last["flops_per_token"] / first["flops_per_token"]) / grown,
            "peak_MB": math.log(last["peak_MB"] / first["peak_MB"]) / grown,
        }
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    if not axes:
        return
    figure, panels = plt.subplots(2, len(axes), figsize=(3.6 * len(axes), 6.5), squeeze=False, layout="constrained")
    for column, axis in enumerate(axes):
        own = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in own]
        for line, (key, label) in enumerate((("tokens_per_s", "tokens a second"), ("peak_MB", "largest memory, MB"))):
            panel = panels[line][column]
            panel.plot(values, [row[key] for row in own], marker="o")
            if key == "tokens_per_s":
                rate = max(row[key] * row["flops_per_token"] for row in own)
                panel.plot(
                    values, [rate / row["flops_per_token"] for row in own], "--", color="gray", label="FLOPs alone"
                )
                panel.legend()
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            panel.yaxis.set_major_formatter("{x:,.0f}")
            panel.yaxis.set_minor_locator(NullLocator())
            panel.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
            panel.set_xlabel(axis)
            panel.set_ylabel(label if column == 0 else "")
            panel.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
