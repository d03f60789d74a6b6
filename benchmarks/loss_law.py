"""The law by which `budget` expects losses, against the runs that it was fitted to and four larger ones.

python -m benchmarks.loss_law

The runs of 2026-11-30 and 12-01 are in loss_law.csv: text, its bits per byte under LZMA, n_vocab, tokens of the text,
FLOPs, layers, width, and bits per byte on held-out text, each as `python -m benchmarks.dial --rates 1 --sizes SIZE
--budgets "F flops" --text TEXT` trains it; "standard library" is its 168 modules that are files. Losses of different
texts and vocabularies are not comparable, so each pair has a factor of its own. Floor, size_power and REUSE are given,
as in `models/gpt2/dial/laws.py`; the others are fitted by least squares of logarithms. "others": the runs of more
FLOPs than FITTED, which no constant was fitted to, with `Text.scale` for factor.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from benchmarks._report import finish, processor, say, table
from models.gpt2 import flops
from models.gpt2.config import GPT2Config
from models.gpt2.dial import laws
from models.gpt2.dial.laws import LossLaw, Shape

RUNS = Path(__file__).with_suffix(".csv")
N_CTX = 128  # of all runs
FITTED = 1e13  # FLOPs of the largest runs that the law was fitted to


class Run(NamedTuple):
    """A run. parameters: weights in products. trained: tokens, effective ones where the text is repeated."""

    text: laws.Text
    group: tuple[str, int]
    shape: Shape
    flops: float
    parameters: int
    trained: float
    loss: float


def read() -> list[Run]:
    """The runs of loss_law.csv."""
    with RUNS.open(newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> Run:
    shape, n_vocab, budget = Shape(int(row["layers"]), int(row["width"])), int(row["n_vocab"]), float(row["flops"])
    model = GPT2Config(n_layer=shape.layers, n_embd=shape.width, n_ctx=N_CTX, n_vocab=n_vocab)
    text = laws.Text(int(row["tokens"]), math.nan, float(row["compressed"]))
    trained = laws.effective(budget / flops.flops_per_token(model), text.tokens)
    group, loss = (row["text"], n_vocab), float(row["bits_per_byte"])
    return Run(text, group, shape, budget, flops.matmul_parameters(model), trained, loss)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    runs = read()
    fitted = [run for run in runs if run.flops <= FITTED]
    others = [run for run in runs if run.flops > FITTED]
    compared = {"in use": laws.LOSS, "fitted now": fit(fitted)}
    rows: list[dict[str, Any]] = [
        {"law": name, **law._asdict(), **spread(errors(law, fitted))} for name, law in compared.items()
    ]
    say(table(rows))
    missed = [run.text.scale * laws.LOSS(run.parameters, run.trained) / run.loss - 1 for run in others]
    say(f"{len(others)} others: {spread(np.array(missed))}")
    finish(
        "loss_law",
        f"%, RMS of the expected losses' errors in {len(fitted)} runs, a factor for each text and vocabulary",
        rows[0]["rms %"],
        {"fitted now": rows[1]["rms %"]},
        device=processor(),
        packages=("scipy",),
        details={"rows": rows, "others": spread(np.array(missed))},
        less_is_better=True,
    )


def errors(law: LossLaw, runs: list[Run]) -> np.ndarray:
    """Logarithms of expected over measured losses, with the best factor for each text and vocabulary."""
    found = np.array([math.log(law(run.parameters, run.trained) / run.loss) for run in runs])
    for group in {run.group for run in runs}:
        members = [run.group == group for run in runs]
        found[members] -= found[members].mean()
    return found


def fit(runs: list[Run]) -> LossLaw:
    """The law with the least sum of squared errors for the floor and size_power in use."""

    def law(constants: np.ndarray) -> LossLaw:
        size, data, power = np.exp(constants)
        return laws.LOSS._replace(size=float(size), data=float(data), power=float(power))

    begin = np.log([laws.LOSS.size, laws.LOSS.data, laws.LOSS.power])
    return law(least_squares(lambda constants: errors(law(constants), runs), begin).x)


def spread(found: np.ndarray) -> dict[str, Any]:
    return {"rms %": 100 * float(np.sqrt((found**2).mean())), "most %": 100 * float(np.abs(found).max())}


if __name__ == "__main__":
    main()
