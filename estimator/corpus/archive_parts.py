"""Parts of archives whose members names divide: wiki.zip::train, wiki.zip::valid and wiki.zip::test.

Such a name stands for the members of one split, and is read like a file (`readers.files`). Members are divided as the
files would be if the archive, and archives within it, were unpacked.
"""

import contextlib
import functools
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from estimator import json_text, storage
from estimator.corpus import containers, split_names
from estimator.corpus.containers import Opened
from estimator.corpus.split_names import OF_ARCHIVE, OTHERS, ByName, Name
from estimator.errors import UserError
from estimator.storage import cache_root

PARTS = ("train", "valid", "test")
MOST_KINDS = 1 << 17  # of names that are kept: some hundred bytes each; beyond these the names say something else
LONG = 1 << 26  # bytes of an archive of which the cache keeps how it is divided, as looking may take a while
_ARCHIVES = (".zip", ".tar")


class _Division(NamedTuple):
    """What divides the members of an archive, and the splits that there are; nothing where names do not divide them."""

    names: frozenset[Name] = frozenset()
    splits: tuple[int, ...] = ()


class Selection(NamedTuple):
    """The members of an archive that are read: those of one split."""

    archive: str
    split: int
    names: frozenset[Name]

    def has(self, label: str) -> bool:
        """label: of a member, behind the archive's path."""
        return _split(self.names, path_within(self.archive, label)) == self.split


def is_archive(path: str) -> bool:
    """Whether the name of a file says that it is an archive."""
    return containers.plain_name(path).endswith(_ARCHIVES)


def archive_of(path: str) -> str | None:
    """The archive of which a path names a part; None for every other path."""
    archive, mark, part = path.rpartition(OF_ARCHIVE)
    names_part = mark and part in PARTS and is_archive(archive) and not os.path.exists(path)
    return archive if names_part and storage.is_file(archive) else None


def selection(path: str) -> Selection | None:
    """The members that a path names; None for a path that names no part of an archive."""
    archive = archive_of(path)
    if archive is None:
        return None
    return Selection(archive, PARTS.index(path.rpartition(OF_ARCHIVE)[2]), _division_of(archive).names)


def path_within(archive: str, name: str) -> str:
    """The path of a member from its archive on. name: the same, or behind the archive's path."""
    return f"/{name.removeprefix(archive).lstrip('/')}"


def by_name(files: Sequence[str]) -> ByName:
    """`split_names.by_name`, with the parts of those archives whose own path does not say what they are for."""
    parts = split_names.by_name(files)
    found = ByName(*map(list, parts[:OTHERS]), others=[])
    for file in parts.others:
        splits: tuple[int, ...] = ()
        if is_archive(file):
            with contextlib.suppress(UserError, *containers.FAULTS):  # the reader of a damaged archive tells
                splits = _division_of(file).splits
        for split in splits:
            found[split].append(f"{file}{OF_ARCHIVE}{PARTS[split]}")
        if not splits:
            found.others.append(file)
    return found


def _split(names: frozenset[Name], member: str) -> int:
    found = split_names.split_by(names, member)
    return 0 if found == OTHERS else found


def _division_of(archive: str) -> _Division:
    if storage.is_remote(archive):
        known = storage.facts(archive)
        return _division(archive, known.size, str(known))
    status = os.stat(archive)
    return _division(os.path.realpath(archive), status.st_size, str(status.st_mtime_ns))


@functools.lru_cache(maxsize=1 << 10)
def _division(archive: str, size: int, version: str) -> _Division:
    """How names divide the members of an archive. version: what changes with its contents."""
    key = sha256(json.dumps([archive, size, version]).encode()).hexdigest()[:32]
    record = cache_root.root() / "archives" / f"{key}.json"
    is_kept = size > LONG
    if is_kept and (kept := _read(record)):
        return kept
    kinds: dict[tuple[object, ...], str] = {}
    for name in listed(archive):
        member = path_within(archive, name)
        if len(kinds) < MOST_KINDS:
            kinds.setdefault(split_names.said_by(member), member)
    names = split_names.dividing(kinds.values())
    splits = tuple(sorted({_split(names, member) for member in kinds.values()}))
    found = _Division(names, splits) if 0 in splits and len(splits) > 1 else _Division()
    if is_kept:
        with contextlib.suppress(OSError):  # a cache that cannot be written
            record.parent.mkdir(parents=True, exist_ok=True)
            storage.write_json_atomic(str(record), {"names": sorted(found.names), "splits": found.splits})
    return found


def _read(record: Path) -> _Division | None:
    try:
        values = json_text.loads(record.read_bytes())
        return _Division(frozenset(map(tuple, values["names"])), tuple(values["splits"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def listed(path: str, *, limit: int | None = None) -> Iterator[str]:
    """The names of the members of an archive, and of archives within it.

    limit: bytes of the file that are read, if members are compressed together or in archives.
    """
    with storage.open(path) as file:
        name = os.path.basename(path)
        kind = containers.packing(file.read(containers.HEAD_BYTES), name, label=path)
        file.seek(0)
        if kind in ("zip", "tar"):
            names = _names(file, kind)
            yield from names
            if any(map(is_archive, names)):
                file.seek(0)
                with contextlib.suppress(UserError, *containers.FAULTS):  # the reader of a damaged member tells
                    yield from _unpacked(path, file, limit)
        elif kind:
            yield from _unpacked(path, file, limit)


def _names(file: Any, kind: str) -> list[str]:
    if kind == "zip":
        with zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    else:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            names = [info.name for info in archive if info.isfile()]
    return [name for name in names if not containers.is_hidden(name)]


def _unpacked(path: str, file: Any, limit: int | None) -> Iterator[str]:
    for opened in containers.unpacked(Opened(path, os.path.basename(path), file, file.tell), ignore):
        yield opened.label
        if limit is not None and file.tell() > limit:
            return


def ignore(_reason: str, _error: UserError | None) -> None:
    """A fault handler for what another reader tells."""
