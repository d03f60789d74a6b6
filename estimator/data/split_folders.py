"""Data divided by names: folders and files called `train`, `valid` and `test`.

They are sub-folders, of text or of shards, or arrays: `train.npy`, `valid.npy`, `test.npy`. Test data is ignored.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from estimator.data.config import InputConfig

TRAINING = "train"
EVALUATION = ("valid", "validation", "val", "eval", "dev", "evaluation")
TEST = ("test", "testing")
PARTS = (TRAINING, *EVALUATION)
# Endings of one data set may differ from file to file.
_TEXT = {"txt", "text", "md", "html", "json", "jsonl", "ndjson", "jsonlines", "csv", "tsv", "parquet"}
ENDINGS = _TEXT | {"gz", "bz2", "xz", "zst", "zip"}
# These describe what follows them, as in training-manual.txt, unless it is one of these words for a part of the data.
_ADJECTIVES = ("training", "testing", "evaluation")
_OF_DATA = {"data", "dataset", "set", "split", "text", "texts", "corpus", "examples", "samples", "shard", "part"}
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
    parts = parts_of([config.data_path] if isinstance(config.data_path, str) else config.data_path)
    if not parts.evaluation:
        return config, []
    found = {
        "data_path": parts.training,
        "eval_split": parts.evaluation if config.eval_split is None else config.eval_split,
    }
    return config.model_copy(update=found), parts.notes


def parts_of(paths: Sequence[str]) -> Parts:
    """The paths, where a folder that is divided is replaced by its parts."""
    parts = Parts([], [], [])
    for path in paths:
        found = _parts_within(path)
        parts.training.append(found[0] if found else path)
        if found:
            parts.evaluation.append(found[1])
            training, evaluation = map(os.path.basename, found)
            parts.notes.append(f"{path}: {training} is trained on and {evaluation} evaluated on, by their names")
    return parts


def _parts_within(folder: str) -> tuple[str, str] | None:
    for suffix in ("", *_ARRAYS):
        is_part = os.path.isfile if suffix else os.path.isdir
        training = os.path.join(folder, TRAINING + suffix)
        for name in EVALUATION:
            evaluation = os.path.join(folder, name + suffix)
            if is_part(training) and is_part(evaluation):
                return training, evaluation
    return None


class ByName(NamedTuple):
    """Files of one data set that say by their names what they are for, and the others."""

    training: list[str]
    evaluation: list[str]
    test: list[str]
    others: list[str]


def _names_something(following: Sequence[str]) -> bool:
    """Whether these words of a file's name say more than which part of the data it is."""
    return any(word not in ENDINGS | _OF_DATA and not word.isdigit() and word != "of" for word in following)


def by_name(files: Sequence[str]) -> ByName:
    """Divides files by words in their names: train.txt, X-valid.jsonl, wiki.test.tokens, train-00000-of-00002.parquet.

    A word counts only where the same name with "train" in its place is among the files, so a test-drive.txt of its own
    is like any other.
    """
    words = {TRAINING: 0, "training": 0} | dict.fromkeys(EVALUATION, 1) | dict.fromkeys(TEST, 2)
    roles: dict[str, tuple[int, tuple[str, ...]] | None] = {}
    for file in files:
        folder, name = os.path.split(file)
        stem = re.split(r"[._\-\s]+", name.lower())
        at = next((i for i, word in enumerate(stem) if word in words), None)
        if at is None or (stem[at] in _ADJECTIVES and _names_something(stem[at + 1 :])):
            roles[file] = None
            continue
        rest = (word for i, word in enumerate(stem) if i != at and not word.isdigit() and word != "of")
        # Splits of one data set may be packed or written differently.
        kept = tuple(word for word in rest if word not in ENDINGS)
        roles[file] = (words[stem[at]], (folder, *kept))
    known = {role[1] for role in roles.values() if role and role[0] == 0}
    parts: tuple[list[str], ...] = ([], [], [], [])
    for file, role in roles.items():
        parts[role[0] if role and role[1] in known else 3].append(file)
    return ByName(*parts) if parts[1] or parts[2] else ByName([], [], [], list(files))
