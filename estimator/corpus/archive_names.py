"""Archives of which all members are read, though names would divide them into text to train on and text held out.

So it is in runs that versions before have begun, and in programs that do not divide text (`archive_parts` names the
parts elsewhere). A note is a reason for `OnFault`, so that it is kept with the counts of omissions; `warnings` makes
lines for the user of the notes.
"""

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from estimator.corpus import archive_parts, containers, split_names
from estimator.corpus.archive_parts import MOST_KINDS
from estimator.errors import UserError

UNDIVIDED = "archive that names do not divide: "
LOOKED_AT = 1 << 26  # bytes of compressed archives whose members `look` lists
LINES = 3


class Members:
    """Names of members that say which part of the data they are; of many with the same folder one is kept."""

    def __init__(self, path: str):
        self._path = path
        self._names: dict[tuple[object, ...], str] = {}

    def add(self, name: str) -> None:
        """name: within the archive, or behind the archive's path."""
        name = archive_parts.path_within(self._path, name)
        if (said := split_names.said_by(name)) and len(self._names) < MOST_KINDS:
            self._names.setdefault(said, name)

    def note(self) -> str | None:
        """The reason to count, if names would hold some of the members out."""
        parts = split_names.by_name(list(self._names.values()))
        held_out = [name.lstrip("/") for name in (*parts.evaluation, *parts.test)]
        return f"{UNDIVIDED}{self._path}: {split_names.listed(held_out)}" if held_out else None


def notes(reasons: Iterable[str]) -> list[str]:
    """Those among the reasons of counts that are about archives."""
    return [reason for reason in reasons if reason.startswith(UNDIVIDED)]


def without_notes(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of all other reasons."""
    return {reason: count for reason, count in counts.items() if not reason.startswith(UNDIVIDED)}


def warnings(noted: Sequence[str]) -> list[str]:
    """Lines for the user; of many archives for the first."""
    lines = [f"warning: {_line(*reason.removeprefix(UNDIVIDED).rpartition(': ')[::2])}" for reason in noted[:LINES]]
    more = len(noted) - LINES
    return lines + ([f"warning: the same holds for {more} more of the archives"] if more > 0 else [])


def _line(path: str, held_out: str) -> str:
    stem = os.path.basename(path).partition(".")[0]
    archive, folder = shlex.quote(path), shlex.quote(f"{stem}_texts")
    unpack = (
        f"unzip {archive} -d {folder}"
        if path.lower().endswith(".zip")
        else f"mkdir {folder} && tar -xf {archive} -C {folder}"
    )
    return (
        f"{path} is trained on as a whole, also {held_out}, which names do not hold out here; to hold "
        f"these out, unpack it (`{unpack}`) and name the folder {folder} in its place"
    )


def look(paths: Iterable[str]) -> list[str]:
    """The notes on archives that are not read now: on those that their names say are archives.

    Reads the lists of zip and tar files, of compressed ones only the members in the first LOOKED_AT bytes.
    """
    found = []
    for path in paths:
        if archive_parts.is_archive(path):
            members = Members(path)
            # The reader of a damaged archive tells.
            with contextlib.suppress(UserError, *containers.FAULTS):
                for name in archive_parts.listed(path, limit=LOOKED_AT):
                    members.add(name)
            found.append(members.note())
    return [note for note in found if note]
