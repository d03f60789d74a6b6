"""The loss that the dial reaches, against a grid of sizes with their own learning rates, and against its expectation.

python -m benchmarks.dial                                   2, 8 and 20 minutes, two texts, nine sizes: about 15 hours
python -m benchmarks.dial --budgets 2min --text FILE        one budget on one text: three quarters of an hour or more
python -m benchmarks.dial --budgets "300k tokens" --sizes 2x64 2x128 --rates 1

A size of the grid is run by main.py with the same budget, as the dial plans it for given n_layer and n_embd, and again
with other learning rates. The default texts are tinyshakespeare, where it is, and Python's documentation. The goals: a
loss within 2 % of the best of the grid, and within 5 % of the one that the dial expects.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._report import finish, processor, say, table
from benchmarks._workers import ROOT, as_a_user_starts_it
from estimator.errors import UserError, run_program
from estimator.training import metrics_log

FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))
BUDGETS = ("2min", "8min", "20min")
SIZES = ("2x64", "4x64", "2x128", "4x128", "3x192", "6x192", "4x256", "5x320", "6x384")
RATES = (0.5, 1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, metavar="B", help="default: %(default)s")
    parser.add_argument(
        "--text", type=Path, action="append", default=[], help="file or folder; may be given repeatedly"
    )
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, metavar="LxD", help="layers x width (default: %(default)s)"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, metavar="F", help="factors of the dial's rate")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all runs")
    arguments = parser.parse_args()
    shakespeare = FIXTURES / "tinyshakespeare.txt"
    texts = arguments.text or [*([shakespeare] if shakespeare.is_file() else []), Path("python-docs")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dial-") as folder:
        for text in texts:
            for budget in arguments.budgets:
                rows.append(compare(Path(folder) / str(len(rows)), text, budget, arguments))
    say("\n" + table([{key: value for key, value in row.items() if key != "grid"} for row in rows]))
    worst = max(rows, key=lambda row: row["reached"] / row["best"])
    finish(
        "dial",
        f"bits per byte, {worst['text']}, {worst['budget']}: the worst of all against the best of the grid",
        worst["reached"],
        {f"grid, {worst['best size']}": worst["best"]},
        device=processor(),
        packages=("jax", "optax"),
        details={"rows": rows},
        less_is_better=True,
    )


def compare(folder: Path, text: Path, budget: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The dial's run and the grid's, in bits per byte."""
    common = [f"data_path={text.resolve() if text.exists() else text}", f"budget={budget}", *arguments.set]
    common += ["save_minutes=null", "predict_path=null"]
    expected, reached, plan = run(folder / "dial", common)
    chosen = f"{plan['n_layer']}x{plan['n_embd']}"
    say(f"{text.name}, {budget}: the dial chose {chosen}; {expected:.3f} expected, {reached:.3f} reached")
    grid: dict[str, float] = {}
    for size in arguments.sizes:
        layers, _, width = size.partition("x")
        keys = [f"n_layer={layers}", f"n_embd={width}", f"n_vocab={plan['n_vocab']}", f"n_ctx={plan['n_ctx']}"]
        name = folder / size
        own_rate: float | None = None
        for factor in sorted(arguments.rates, key=lambda factor: factor != 1):  # its plan has the rate of the others
            rate = [] if own_rate is None else [f"lr={factor * own_rate}"]
            _, grid[f"{size}, rate x {factor:g}"], found = run(Path(f"{name}-{factor:g}"), [*common, *keys, *rate])
            own_rate = own_rate or found["lr"] / (factor if rate else 1)
            say(f"  {size}, rate x {factor:g}: {grid[f'{size}, rate x {factor:g}']:.3f}")
    best = min(grid, key=lambda name: grid[name])
    row = {"text": text.name, "budget": budget, "dial": chosen, "expected": expected, "reached": reached}
    row |= {"best size": best, "best": grid[best], "over best %": 100 * (reached / grid[best] - 1)}
    return row | {"over expected %": 100 * (reached / expected - 1), "grid": grid}


def run(folder: Path, keys: list[str]) -> tuple[float, float, dict[str, Any]]:
    """(expected, reached) bits per byte, and the plan, of a run of configs/auto.json."""
    command = [sys.executable, "main.py", "--model", "configs/auto.json"]
    for key in [*keys, f"model_path={folder}"]:
        command += ["--set", key]
    command, environment = as_a_user_starts_it(command, dict(os.environ))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"main.py ended with {done.returncode}: {done.stderr[-2000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("expected: "))
    records = metrics_log.read(folder / "metrics.jsonl")
    reached = [record["bits_per_byte"] for record in records if record["split"] == "eval"][-1]
    return float(line.split()[1]), reached, json.loads(Path(f"{folder}.plan.json").read_text())


if __name__ == "__main__":
    run_program(main)
