"""File access for local paths, gs://bucket/name and s3://bucket/name.

Paths are strings. Remote objects go through fsspec (gcsfs, s3fs; both optional): every operation is tried again while
the fault may pass (`retry.py`), reads are checked against the object's size and checksum, and a file that is
written appears whole or not at all. Emulators are found by STORAGE_EMULATOR_HOST and AWS_ENDPOINT_URL.
"""

import builtins
import contextlib
import fnmatch
import functools
import glob as local_glob
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import google_crc32c

from estimator.errors import UserError, naming
from estimator.storage.backends import Check, ObjectStat, located, parse_facts
from estimator.storage.retry import Damaged, Missing, retried

BLOCK_BYTES = 1 << 24  # read, and asked for, at a time


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names]) if is_remote(folder) else os.path.join(folder, *names)


def exists(path: str) -> bool:
    """Whether there is a file, or a folder with something in it."""
    return (is_file(path) or is_folder(path)) if is_remote(path) else os.path.exists(path)


def is_file(path: str) -> bool:
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        facts(path)
    except Missing:
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether a folder exists; in a bucket, whether there are objects below it."""
    if not is_remote(path):
        return os.path.isdir(path)
    fs, name = located(path)
    try:
        return retried(path, lambda: any(each["name"].rstrip("/") != name for each in fs.ls(name, detail=True)))
    except Missing:
        return False


def size(path: str) -> int:
    return facts(path).size if is_remote(path) else os.path.getsize(path)


def facts(path: str) -> ObjectStat:
    """Properties of a remote object; raises Missing where there is none."""
    fs, name = located(path)
    found = retried(path, lambda: fs.info(name))
    if found["type"] != "file":
        raise Missing(f"{path}: a folder, where a file is needed")
    return parse_facts(found)


def listing(folder: str) -> list[str]:
    """All files below a folder, at any depth, sorted; [] where there is none."""
    return sorted(listing_with_facts(folder)) if is_remote(folder) else _local_listing(folder)


def listing_with_facts(folder: str) -> dict[str, ObjectStat]:
    """All files below a remote folder, with their properties."""
    fs, name = located(folder)
    scheme = folder.partition("://")[0]
    try:
        found = retried(folder, lambda: fs.find(name, detail=True))
    except Missing:
        return {}
    return {f"{scheme}://{key}": parse_facts(value) for key, value in found.items() if not key.endswith("/")}


def _local_listing(folder: str) -> list[str]:
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)


def children(folder: str, pattern: str = "*") -> list[str]:
    """The entries of a folder whose names match, sorted; the folder's own name is never read as a pattern."""
    if not is_remote(folder):
        names = os.listdir(folder) if os.path.isdir(folder) else []
    else:
        fs, name = located(folder)
        try:
            entries = retried(folder, lambda: fs.ls(name, detail=False))
        except Missing:
            return []
        names = [entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != name]
    return sorted(join(folder, name) for name in fnmatch.filter(names, pattern))


def is_pattern(entry: str) -> bool:
    """Whether a file, folder or pattern that a user named is a pattern: one that exists by that name is not."""
    return local_glob.has_magic(entry) and not exists(entry)


def glob(pattern: str) -> list[str]:
    """The files and folders that a pattern matches, sorted; of its leading part, what exists by that name is meant."""
    literal, rest = "", pattern
    while local_glob.has_magic(rest):
        position = re.search(r"[*?[][^/]*", rest)
        assert position
        if not exists(literal + rest[: position.end()]):
            break
        literal, rest = literal + rest[: position.end()], rest[position.end() :]
    pattern = local_glob.escape(literal) + rest
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))
    fs, name = located(pattern)
    scheme = pattern.partition("://")[0]
    try:
        return sorted(f"{scheme}://{each}" for each in retried(pattern, lambda: fs.glob(name)))
    except Missing:
        return []


def remove(path: str) -> None:
    """Removes a file, a link, or a folder with all that is in it; nothing happens where none is."""
    if not is_remote(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return
    for each in [path, *listing(path)]:
        fs, name = located(each)
        with contextlib.suppress(Missing):
            retried(each, functools.partial(fs.rm_file, name))


# Whole files.


def read_bytes(path: str) -> bytes:
    """A whole file, checked."""
    if not is_remote(path):
        with naming(path):
            return Path(path).read_bytes()
    known = facts(path)
    return _checked_read(path, known, 0, known.size) if known.size else b""


def _checked_read(path: str, known: ObjectStat, start: int, stop: int) -> bytes:
    fs, name = located(path)
    unsure: set[bytes] = set()

    def read() -> bytes:
        nonlocal known
        data = bytes(fs.cat_file(name, start=start, end=stop))
        check = Check(known, unsure)
        check.add(data)
        try:
            check.finish(path)
        except Damaged:
            known = facts(path)  # another process may have replaced the object
            if known.size != stop:
                raise UserError(f"{path} changes while it is read; run the same command again") from None
            raise
        return data

    return retried(path, read)


def download(path: str, target: str | Path) -> ObjectStat:
    """Copies a remote object to a file, which appears whole; checked while it comes."""
    fs, name = located(path)
    unsure: set[bytes] = set()

    def block(start: int, stop: int) -> bytes:
        data = bytes(fs.cat_file(name, start=start, end=stop))
        if len(data) != stop - start:
            raise Damaged(f"{path}: {len(data)} of {stop - start} bytes came")
        return data

    def copy() -> ObjectStat:
        known = facts(path)
        check = Check(known, unsure)
        with new_file(target) as file:
            for start in range(0, known.size, BLOCK_BYTES):
                stop = min(start + BLOCK_BYTES, known.size)
                data = retried(path, functools.partial(block, start, stop))
                check.add(data)
                file.write(data)
            check.finish(path)
        return known

    return retried(path, copy)


def upload(local: str | Path, path: str) -> None:
    """Copies a file of this machine to a path, where it appears whole."""
    if not is_remote(path):
        with builtins.open(local, "rb") as source, new_file(path) as target:
            shutil.copyfileobj(source, target, BLOCK_BYTES)
        return
    fs, name = located(path)
    retried(path, lambda: _sent(path, os.path.getsize(local), lambda: fs.put_file(str(local), name), local))


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a whole file."""
    if not is_remote(path):
        with new_file(path) as file:
            file.write(data)
        return
    path = str(path)
    fs, name = located(path)
    retried(path, lambda: _sent(path, len(data), lambda: fs.pipe_file(name, data), data))


def write_json_atomic(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Writes a whole JSON file, indented."""
    write_bytes_atomic(path, (json.dumps(values, indent=2) + "\n").encode())


def _sent(path: str, expected: int, send: Any, source: Any) -> None:
    """Sends an object and compares size and checksum of the stored one."""
    send()
    arrived = facts(path)
    if arrived.size != expected:
        raise Damaged(f"{path}: {arrived.size} of {expected} bytes arrived")
    if arrived.crc32c:
        checksum = google_crc32c.Checksum()
        with io.BytesIO(source) if isinstance(source, bytes) else builtins.open(source, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                checksum.update(block)
        if checksum.digest() != arrived.crc32c:
            raise Damaged(f"{path}: other bytes arrived than were sent")


def create(path: str, data: bytes) -> bool:
    """Creates a file; returns False where it exists. Of several processes, the store lets one succeed."""
    if not is_remote(path):
        try:
            with builtins.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
    if is_file(path):
        return False
    fs, name = located(path)

    def attempt() -> bool:
        try:
            fs.pipe_file(name, data, mode="create")
        except FileExistsError:
            # Perhaps our own, of a try whose answer was lost.
            return read_bytes(path) == data
        return True

    return retried(path, attempt)


def append(path: str, text: str) -> None:
    """Adds text to the end of a file, which is made, with its folder, if it does not exist.

    An object is read and written as a whole, so it may have one writer only.
    """
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with builtins.open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    before = read_bytes(path) if is_file(path) else b""
    write_bytes_atomic(path, before + text.encode())


# Open files.


def open(path: str, mode: Literal["rb", "r"] = "rb") -> IO[Any]:
    """Opens a file for reading; a remote one is fetched in blocks as they are needed. Text is UTF-8."""
    if not is_remote(path):
        return builtins.open(path, mode, encoding=None if "b" in mode else "utf-8")
    file = io.BufferedReader(_Reader(path, facts(path)), BLOCK_BYTES)
    return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


class _Reader(io.RawIOBase):
    """A remote object, read in blocks; its checksum is compared when it has been read from beginning to end."""

    def __init__(self, path: str, known: ObjectStat):
        self._path, self._known = path, known
        self._fs, self._name = located(path)
        self._position = 0
        self._check: Check | None = Check(known, set())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._known.size}[whence]
        if position != self._position:
            self._check = None
        self._position = max(0, position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, stop = self._position, min(self._position + len(buffer), self._known.size)
        if start >= stop:
            return 0

        def read() -> bytes:
            data = bytes(self._fs.cat_file(self._name, start=start, end=stop))
            if len(data) != stop - start:
                raise Damaged(f"{self._path}: {len(data)} of {stop - start} bytes came")
            return data

        data = retried(self._path, read)
        buffer[: len(data)] = data
        self._position = stop
        if self._check is not None:
            self._check.add(data)
            if stop == self._known.size and self._known.md5_is_sure:
                try:
                    self._check.finish(self._path)
                except Damaged as error:
                    raise UserError(f"{error}, or it was replaced meanwhile; run the same command again") from None
        return len(data)


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
    """Opens a file for writing; it appears, whole, when the block ends without an error. Text is UTF-8."""
    encoding = None if mode == "wb" else "utf-8"
    with replacing(path) as temporary, builtins.open(temporary, mode, encoding=encoding) as file:
        yield file


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, temporary: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yields the path of a temporary file, which becomes `path` when the block ends without an error.

    temporary: its path, in the same file system; by default a new name, so that several processes can write one file.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="gpt2-upload-") as folder:
            yield Path(folder, "file")
            upload(Path(folder, "file"), str(path))
        return
    arriving = Path(temporary or f"{os.fspath(path)}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            yield arriving
        os.replace(arriving, path)
    except OSError as error:
        if error.filename in (arriving, os.fspath(arriving)):  # a name that the user never wrote
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # a disk that takes no change: its first error is the one to report
            arriving.unlink()
