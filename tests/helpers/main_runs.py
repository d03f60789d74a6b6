"""Runs main.py in this process and reads its results."""

import json
import random
import sys
from pathlib import Path

from conftest import ROOT, one_device

import main
from estimator.estimator import Estimator

CORPUS = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.\n"


def write_corpus(folder: Path) -> Path:
    """Writes forty short documents."""
    draw = random.Random(0)
    for i in range(40):
        words = CORPUS.split()
        draw.shuffle(words)
        (folder / f"{i:02}.txt").write_text(" ".join(words) + "\n" + CORPUS * draw.randint(1, 5))
    return folder


def options(corpus: Path, folder: Path, **changes) -> list[str]:
    """Returns the arguments of a run that takes a few seconds."""
    values = {
        "data_path": str(corpus), "model_path": str(folder / "run"), "predict_path": str(folder / "samples.txt"),
        "n_vocab": 300, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1, "train_batch_size": 8,
        "max_steps": 12, "train_steps": 6, "log_steps": 1, "eval_steps": 2, "length": 8, "warmup_steps": 2,
        "report": False,
    } | changes  # fmt: skip
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    overrides = [f"--set={key}={text}" for key, text in texts.items()]
    return ["--model", str(ROOT / "configs" / "tiny.json"), *overrides]


def call(monkeypatch, arguments: list[str]) -> int | None:
    """Calls main.py in this process, which avoids starting Python again."""
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    return main.main()


def metrics(folder: Path, split: str) -> list[dict]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def final_parameters(monkeypatch, arguments: list[str]):
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    setup = main.read_setup(main.parse_arguments())
    params = setup.model.Params(setup.model_config, setup.optimizer, 1)
    return Estimator(setup.model.model_fn, params, setup.run, devices=one_device()).restore()
