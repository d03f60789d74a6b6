"""Shards divided by names: sub-folders called train, valid and test, or arrays: `train.npy`, `valid.npy`, `test.npy`.

Test data is ignored, or evaluated on where nothing is called valid. Text is divided file by file (`split_names`).
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from estimator.corpus.split_names import EVALUATION, TEST, TRAINING
from estimator.data.config import InputConfig
from estimator.format_version import NEWEST_SPLIT, SplitRules

PARTS = (*TRAINING, *EVALUATION, *TEST)
_ARRAYS = (".npy", ".npz", ".bin")
# Names that divided data before runs noted that they go by names, in small letters alone.
_BEFORE = ("train",), ("valid", "validation", "val", "eval", "dev", "evaluation")


class Parts(NamedTuple):
    """Paths to train on and to evaluate on, and a line for the console about each folder that was divided."""

    training: list[str]
    evaluation: list[str]
    notes: list[str]


def divided(config: InputConfig, *, rules: SplitRules = NEWEST_SPLIT) -> tuple[InputConfig, list[str]]:
    """The configuration of the data with the parts of folders that are divided, and notes about these.

    An eval_split of names or numbers of shards overrides the names; a fraction is of the part to train on.
    rules: those of earlier versions have fewer names, as a run of these may have trained on what others name.
    """
    if config.data_path is None or config.dataset or isinstance(config.eval_split, str | list):
        return config, []
    paths = [config.data_path] if isinstance(config.data_path, str) else config.data_path
    parts = _parts_of(paths, config.eval_split, keeps_split=rules == SplitRules.FOLDERS)
    if not parts.evaluation:
        return config, []
    found = {
        "data_path": parts.training,
        "eval_split": parts.evaluation if config.eval_split is None else config.eval_split,
    }
    return config.model_copy(update=found), parts.notes


def _parts_of(paths: Sequence[str], fraction: float | None, *, keeps_split: bool) -> Parts:
    """The paths, where a folder that is divided is replaced by its parts. fraction: what eval_split says instead."""
    parts = Parts([], [], [])
    for path in paths:
        found = _parts_within(path, keeps_split=keeps_split)
        parts.training.append(found[0] if found else path)
        if found:
            parts.evaluation.append(found[1])
            training, evaluation = map(os.path.basename, found)
            use = "evaluated on" if fraction is None else f"not used, as eval_split is {fraction:g}"
            parts.notes.append(f"{path}: by their names, {training} is trained on and {evaluation} is {use}")
    return parts


def _parts_within(folder: str, *, keeps_split: bool) -> tuple[str, str] | None:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    there = {name if keeps_split else name.lower(): name for name in names}
    for_training, for_evaluation = _BEFORE if keeps_split else (TRAINING, EVALUATION + TEST)
    for suffix in ("", *_ARRAYS):
        is_part = os.path.isfile if suffix else os.path.isdir
        found = {name: os.path.join(folder, there[name + suffix]) for name in PARTS if name + suffix in there}
        parts = {name: path for name, path in found.items() if is_part(path)}
        training = next((parts[name] for name in for_training if name in parts), None)
        evaluation = next((parts[name] for name in for_evaluation if name in parts), None)
        if training and evaluation:
            return training, evaluation
    return None
