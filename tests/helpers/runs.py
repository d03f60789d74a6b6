"""Writes runs and reads their metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def records(folder, split: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def losses(folder) -> list[float]:
    return [record["loss"] for record in records(folder)]


def perplexity(value: float) -> dict[str, float]:
    return {"perplexity": float(np.exp(value))}


def write_run(folder: Path, *, steps: int = 40, evaluations: bool = True, changes=None) -> Path:
    """Writes a run directory with a record per step and an evaluation every ten steps. changes: to training records."""
    folder.mkdir(parents=True)
    records = []
    for step in range(1, steps + 1):
        common = {"step": step, "tokens": step * 64, "time": 1.7e9 + step}
        train = {"split": "train", "loss": 5 / step + 2, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 1e4}
        records.append(common | train | {"step_seconds": 0.5, "flops": step * 1e9} | (changes or {}))
        if evaluations and step % 10 == 0:
            records.append(common | {"split": "eval", "loss": 5 / step + 2.1, "perplexity": 9.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
