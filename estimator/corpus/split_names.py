"""Names of folders and files that say which part of the data they are: train, valid, test and their synonyms."""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from estimator import storage

TRAINING = ("train", "training")
EVALUATION = ("valid", "validation", "val", "eval", "dev", "evaluation", "heldout", "holdout")
TEST = ("test", "testing")
# Numbers of the splits that words stand for: to train on, to evaluate on, to test on.
SPLITS = {word: number for number, words in enumerate((TRAINING, EVALUATION, TEST)) for word in words}
OTHERS = len(set(SPLITS.values()))  # the number of the files that say nothing
OF_ARCHIVE = "::"  # before the part of an archive, as `archive_parts` names it
Name = tuple[str, ...]  # a path, with what one name in it says besides the split
# Endings of one data set may differ from file to file.
_TEXT = {"txt", "text", "md", "html", "htm", "json", "jsonl", "ndjson", "jsonlines", "csv", "tsv", "tab", "parquet"}
ENDINGS = _TEXT | {"gz", "bz2", "xz", "zst", "zip", "tar", "tgz", "tbz2", "txz"}
# These describe what follows them, as in training-manual.txt, unless it is one of these words for a part of the data.
_ADJECTIVES = ("training", "testing", "evaluation")
_OF_DATA = {"data", "dataset", "set", "split", "text", "texts", "corpus", "examples", "samples", "shard", "part", "of"}
# The same words with what may be written together with them: trainset, testdata, valid1.
_WORD = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?:set|data)?[0-9]*")
_DIGEST = re.compile(r"[0-9a-f]{16}")  # at the end of the names of files on the Hub, for each another


class ByName(NamedTuple):
    """Files of one data set that say by their names what they are for, and the others."""

    training: list[str]
    evaluation: list[str]
    test: list[str]
    others: list[str]


def by_name(files: Sequence[str]) -> ByName:
    """Divides files by words in the names of their folders and their own.

    Such are train/a.txt, valid_data/b.txt, X-valid.jsonl, wiki.test.tokens, train-00000-of-00002.parquet. A word counts
    only where the same name with "train" in its place is next to it, so a test-drive.txt of its own is like any other;
    of several the one of the outer folder.
    """
    names = dividing(files)
    parts: tuple[list[str], ...] = ([], [], [], [])
    for file in dict.fromkeys(files):
        parts[split_by(names, file)].append(file)
    return ByName(*parts)


def dividing(files: Iterable[str]) -> frozenset[Name]:
    """The names by which `by_name` divides files."""
    splits = defaultdict(set)
    for split, name in (role for file in files for role in _roles(file)):
        splits[name].add(split)
    return frozenset(name for name, found in splits.items() if 0 in found and len(found) > 1)


def split_by(names: Collection[Name], file: str) -> int:
    """The split of a file that some names divide: of SPLITS, or OTHERS."""
    return next((split for split, name in _roles(file) if name in names), OTHERS)


def said_by(file: str) -> tuple[object, ...]:
    """What the names in a path say; the same for all files that `by_name` cannot tell apart, nothing for most."""
    return tuple(_roles(file))


def _roles(file: str) -> list[tuple[int, Name]]:
    """What the names in a path say, outer folders first: the split, and the path with the rest of that name."""
    names = (file if storage.is_remote(file) else os.path.abspath(file)).split("/")
    found = ((names[:i], _role(name)) for i, name in enumerate(names))
    return [(role[0], (*above, "", *role[1])) for above, role in found if role]


@functools.lru_cache(maxsize=1 << 12)  # names of folders come again with each file
def _role(name: str) -> tuple[int, tuple[str, ...]] | None:
    """The split that a name says, and the other words in it that say something."""
    words = re.split(r"[._\-\s]+", re.sub(r"\b(held|hold)[_\-\s]out", r"\1out", name.lower()))
    at, found = next(((i, match[1]) for i, word in enumerate(words) if (match := _WORD.fullmatch(word))), (0, None))
    if found is None:
        return None
    before, after = (tuple(filter(_says_more, part)) for part in (words[:at], words[at + 1 :]))
    return None if after and words[at].rstrip("0123456789") in _ADJECTIVES else (SPLITS[found], before + after)


def _says_more(word: str) -> bool:
    """Whether a word of a name says more than which part of the data it is."""
    return word not in ENDINGS | _OF_DATA and not word.isdigit() and not _DIGEST.fullmatch(word)


def listed(files: Sequence[str]) -> str:
    """What says in the paths of some files what they are for, names or folders/, each once; of many the first."""
    names = list(dict.fromkeys(map(_telling, files)))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _telling(file: str) -> str:
    archive, mark, part = file.rpartition(OF_ARCHIVE)
    if mark and part in SPLITS:
        return f"{part} in {os.path.basename(archive)}"
    *folders, name = file.split("/")
    folder = next((folder for folder in reversed(folders) if _role(folder)), None)
    return name if _role(name) or folder is None else f"{folder}/"
