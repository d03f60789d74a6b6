"""Metrics of two older GPT-2 trainers.

lopuhin/transformer-lm writes json-log-plots.log with the package json_log_plots: one JSON object a line, whose `step`
is the number of tokens seen and `dt` the local time. affjljoo3581/GPT2 keeps its metrics in its checkpoints: until July
2020 {"steps", "times", "train", "eval"}, then {"train/loss": [(step, mean), ...], "eval/loss": ...}.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.interop import torch_pickle
from estimator.plots.columns import Columns

JSON_LOG = "json-log-plots.log"
Splits = tuple[Columns, Columns]  # of training and evaluation


def has_metrics(path: str) -> bool:
    """Whether a file is of a format that is read here."""
    return is_checkpoint(path) or is_json_log(path)


def is_checkpoint(path: str) -> bool:
    """Whether a file is one of torch.save."""
    with storage.open(path) as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def is_json_log(path: str) -> bool:
    """Whether the first record of a file is one of json_log_plots."""
    with storage.open(path) as file:
        try:
            record = json_text.loads(file.readline(1 << 16))
        except ValueError:
            return False
    return isinstance(record, dict) and "split" not in record and {"step", "dt"} <= set(record)


def read_json_log(path: str) -> Splits:
    """The records of a json-log-plots.log.

    Evaluations have keys that begin with valid_. The trainer's last version writes them like training records: those
    are the ones that repeat a step or lie between the regular steps of training.
    """
    *lines, last = storage.read_bytes(path).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate([*lines, last] if last.endswith(b"}") else lines, 1):
        try:
            row = json_text.loads(line)
            row |= {"tokens": int(row["step"]), "time": datetime.fromisoformat(row["dt"]).timestamp()}
        except (ValueError, TypeError, KeyError, OverflowError):
            raise UserError(
                f"{path}, line {number}: not a record of json_log_plots; move this line to another file, or correct it"
            ) from None
        if rows and rows[-1]["tokens"] > row["tokens"]:  # a resumed run repeats steps
            rows = [each for each in rows if each["tokens"] < row["tokens"]]
        rows.append(row)
    interval = rows[0]["tokens"] if rows else 1  # between records of training, unless the batch size has changed
    regular = sum(not row["tokens"] % (interval or 1) for row in rows)
    interval = interval if interval and 2 * regular > len(rows) else 1
    train: list[dict[str, Any]] = []
    evaluation: list[dict[str, Any]] = []
    for row in rows:
        row["elapsed"] = row["time"] - rows[0]["time"]
        del row["step"]
        named = {key.removeprefix("valid_"): value for key, value in row.items() if key.startswith("valid_")}
        repeats = bool(train) and train[-1]["tokens"] == row["tokens"]
        (evaluation if named or repeats or row["tokens"] % interval else train).append(row | named)
    return Columns.of(train), Columns.of(evaluation)


def read_checkpoint(path: str) -> Splits:
    """The metrics in a checkpoint or model file of affjljoo3581/GPT2. Raises UserError if there are none."""
    if storage.is_remote(path):
        raise UserError(f"{path}: copy the file to this machine to draw its metrics")
    contents = torch_pickle.read(Path(path))
    contents = contents if isinstance(contents, dict) else {}
    if isinstance(contents.get("trainer"), dict):
        contents = contents["trainer"]
    recorder = contents.get("recorder")
    if isinstance(recorder, torch_pickle.Recorder):
        recorder = {"metrics": vars(recorder).get("metrics")}
    metrics = contents.get("metrics") or (recorder or {}).get("metrics") or recorder
    try:
        return _splits(metrics or {})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UserError(f"{path} holds no metrics of affjljoo3581/GPT2: give a run's folder instead") from None


def _splits(metrics: dict[str, Any]) -> Splits:
    if "train/loss" in metrics:
        stamped = (metrics.get(f"{split}/loss", []) for split in ("train", "eval"))
        train, evaluation = ([{"step": int(step), "loss": float(loss)} for step, loss in values] for values in stamped)
        return Columns.of(train), Columns.of(evaluation)
    if "stamps" in metrics:
        stamps = metrics["stamps"]
        steps, elapsed = [step for step, _ in stamps[1:]], [time - stamps[0][1] for _, time in stamps[1:]]
        losses = (metrics["metrics_train"], metrics["metrics_eval"])
    else:
        steps, elapsed = metrics["steps"], np.cumsum(metrics["times"])
        losses = (metrics["train"], metrics["eval"])
    train, evaluation = (
        [
            {"step": int(step), "elapsed": float(seconds), "loss": float(values["loss"])}
            for step, seconds, values in zip(steps, elapsed, split, strict=False)
        ]
        for split in losses
    )
    return Columns.of(train), Columns.of(evaluation)
