"""Names of folders and files that say which part of the data they are: train, valid, test and their synonyms."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TRAINING = "train"
EVALUATION = ("valid", "validation", "val", "eval", "dev", "evaluation")
TEST = ("test", "testing")
# Numbers of the splits that names of folders stand for: to train on, to evaluate on, to test on.
FOLDERS = {TRAINING: 0} | dict.fromkeys(EVALUATION, 1) | dict.fromkeys(TEST, 2)
# Endings of one data set may differ from file to file.
_TEXT = {"txt", "text", "md", "html", "json", "jsonl", "ndjson", "jsonlines", "csv", "tsv", "parquet"}
ENDINGS = _TEXT | {"gz", "bz2", "xz", "zst", "zip"}
# These describe what follows them, as in training-manual.txt, unless it is one of these words for a part of the data.
_ADJECTIVES = ("training", "testing", "evaluation")
_OF_DATA = {"data", "dataset", "set", "split", "text", "texts", "corpus", "examples", "samples", "shard", "part"}


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
    words = FOLDERS | {"training": 0}
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


def by_path(files: Mapping[str, str]) -> ByName:
    """Divides files by the folders called train, valid or test that they are in, and the others by their own names.

    files: each with its path below the folder in which it was found. As with names, a folder counts only where
    one called train is next to it, at any depth; of several the outer one.
    """
    folders = {file: tuple(below.lower().split("/")[:-1]) for file, below in files.items()}
    known = {names[:i] for names in folders.values() for i, name in enumerate(names) if name == TRAINING}
    parts: tuple[list[str], ...] = ([], [], [], [])
    for file, names in folders.items():
        split = next((FOLDERS[name] for i, name in enumerate(names) if name in FOLDERS and names[:i] in known), 3)
        parts[split].append(file)
    if not (parts[1] or parts[2]):
        return by_name(list(files))
    training, evaluation, test, others = by_name(parts[3])
    return ByName(parts[0] + training, parts[1] + evaluation, parts[2] + test, others)


def listed(files: Sequence[str]) -> str:
    """The names of some files for a message, of many the first, with those of folders that say what they are for."""
    split = [file.rsplit("/", 2)[-2:] for file in files[:3]]
    names = ["/".join(names if names[0].lower() in FOLDERS else names[-1:]) for names in split]
    return ", ".join(names) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
