"""Archives whose members names would divide into text to train on and text held out, if they were unpacked.

All members of an archive are read; these notes say so. A note is a reason for `OnFault`, so that it is kept with the
counts of omissions; `warnings` makes lines for the user of the notes.
"""

import contextlib
import os
import shlex
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

from estimator import storage
from estimator.corpus import containers, split_names
from estimator.corpus.containers import Opened
from estimator.errors import UserError

UNDIVIDED = "archive that names do not divide: "
MOST_KINDS = 1 << 12  # of names that are kept; beyond these the names say something else
LOOKED_AT = 1 << 26  # bytes of compressed archives whose members `look` lists
LINES = 3
_ARCHIVES = (".zip", ".tar")


class Members:
    """Names of members that say which part of the data they are; of many with the same folder one is kept."""

    def __init__(self, path: str):
        self._path = path
        self._names: dict[tuple[object, ...], str] = {}

    def add(self, name: str) -> None:
        """name: within the archive, or behind the archive's path."""
        name = f"/{name.removeprefix(self._path).lstrip('/')}"
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
        f"{path} is trained on as a whole, also {held_out}, as names divide files but not members of archives; to hold "
        f"these out, unpack it (`{unpack}`) and name the folder {folder} in its place"
    )


def look(paths: Iterable[str]) -> list[str]:
    """The notes on archives that are not read now: on those that their names say are archives.

    Reads the lists of zip and tar files, of compressed ones only the members in the first LOOKED_AT bytes.
    """
    found = []
    for path in paths:
        if containers.plain_name(path).endswith(_ARCHIVES):
            members = Members(path)
            # The reader of a damaged archive tells.
            with contextlib.suppress(UserError, *containers.FAULTS):
                for name in _listed(path):
                    members.add(name)
            found.append(members.note())
    return [note for note in found if note]


def _listed(path: str) -> Iterator[str]:
    with storage.open(path) as file:
        name = os.path.basename(path)
        kind = containers.packing(file.read(containers.HEAD_BYTES), name, label=path)
        file.seek(0)
        if kind == "zip":
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
            yield from (name for name in names if not containers.is_hidden(name))
        elif kind == "tar":
            with tarfile.open(fileobj=file, mode="r:") as archive:
                yield from (info.name for info in archive if info.isfile() and not containers.is_hidden(info.name))
        elif kind:
            for opened in containers.unpacked(Opened(path, name, file, file.tell), _ignore):
                yield opened.label
                if file.tell() > LOOKED_AT:
                    return


def _ignore(_reason: str, _error: UserError | None) -> None:
    """A fault handler for members that are not read."""
