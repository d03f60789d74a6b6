"""Versions of the formats of our files, so that a program refuses a file of a later format instead of misreading it.

A file that outlives the program holds `"format": N`; without it, it is of version 1. A format gets the next number when
earlier programs would misread its files, not when it gets a key that they may ignore.
"""

from enum import IntEnum
from typing import Any

from estimator.errors import UserError

KEY = "format"
FIRST = 1


def stamped(values: dict[str, Any], version: int = FIRST) -> dict[str, Any]:
    """The values of a JSON object with the version of their format."""
    return {KEY: version, **values}


def check(values: object, path: object, *, known: int = FIRST) -> None:
    """Raises UserError if the contents of the file `path` are of a later version than `known`, or of none."""
    version = values.get(KEY, FIRST) if isinstance(values, dict) else FIRST
    if type(version) is not int or version < FIRST:
        raise UserError(
            f"{path} is damaged: its format is {str(version)[:40]!r} and not a version; restore it from a copy"
        )
    if version > known:
        raise newer(path, version, known=known)


def newer(path: object, version: int, *, known: int) -> UserError:
    return UserError(
        f"{path} was written by a newer version of this program: its format is version {version}, and versions up to "
        f"{known} can be read here; update this program, or use a copy of the newer one for this file"
    )


class SplitRules(IntEnum):
    """How names divide data, which versions have done differently: a run keeps the rules that it was begun with.

    FOLDERS: by sub-folders that are called train and valid. FILES: by folders and files at any depth. MEMBERS: also
    archives, by the names of their members.
    """

    FOLDERS = 0
    FILES = 1
    MEMBERS = 2


NEWEST_SPLIT = max(SplitRules)
