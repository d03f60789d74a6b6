"""Data divided by names: folders and files called `train`, `valid` and `test`.

They are sub-folders, of text or of shards, or arrays: `train.npy`, `valid.npy`, `test.npy`. Test data is ignored, or
evaluated on where nothing is called valid.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from estimator.corpus.split_names import EVALUATION, TEST, TRAINING
from estimator.data.config import InputConfig

PARTS = (TRAINING, *EVALUATION, *TEST)
_ARRAYS = (".npy", ".npz", ".bin")


class Parts(NamedTuple):
    """Paths to train on and to evaluate on, and a line for the console about each folder that was divided."""

    training: list[str]
    evaluation: list[str]
    notes: list[str]


def divided(config: InputConfig) -> tuple[InputConfig, list[str]]:
    """The configuration of the data with the parts of folders that are divided, and notes about these.

    An eval_split of names or numbers overrides the names.
    """
    if config.data_path is None or config.dataset or isinstance(config.eval_split, str | list):
        return config, []
    # Text in folders called train and test is divided by its paths, unless earlier versions have prepared it whole.
    names = EVALUATION if config.input in ("text", "chat") else EVALUATION + TEST
    parts = _parts_of([config.data_path] if isinstance(config.data_path, str) else config.data_path, names)
    if not parts.evaluation:
        return config, []
    found = {
        "data_path": parts.training,
        "eval_split": parts.evaluation if config.eval_split is None else config.eval_split,
    }
    return config.model_copy(update=found), parts.notes


def _parts_of(paths: Sequence[str], names: Sequence[str]) -> Parts:
    """The paths, where a folder that is divided is replaced by its parts. names: of those to evaluate on."""
    parts = Parts([], [], [])
    for path in paths:
        found = _parts_within(path, names)
        parts.training.append(found[0] if found else path)
        if found:
            parts.evaluation.append(found[1])
            training, evaluation = map(os.path.basename, found)
            parts.notes.append(f"{path}: {training} is trained on and {evaluation} evaluated on, by their names")
    return parts


def _parts_within(folder: str, names: Sequence[str]) -> tuple[str, str] | None:
    for suffix in ("", *_ARRAYS):
        is_part = os.path.isfile if suffix else os.path.isdir
        training = os.path.join(folder, TRAINING + suffix)
        for name in names:
            evaluation = os.path.join(folder, name + suffix)
            if is_part(training) and is_part(evaluation):
                return training, evaluation
    return None
