"""Files wherever they are: on this machine, or in a bucket as gs://bucket/name or s3://bucket/name.

Paths are strings. Remote objects go through fsspec (gcsfs, s3fs; both optional): every operation is tried again while
the fault may pass (`storage_errors`), what is read is checked against the object's size and checksum, and what is
written appears whole or not at all. Emulators are found by STORAGE_EMULATOR_HOST and AWS_ENDPOINT_URL.
"""

import builtins
import contextlib
import functools
import glob as local_glob
import io
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import google_crc32c

from runtime.errors import UserError
from runtime.storage_errors import Damaged, Missing, retried
from runtime.stores import Check, Facts, located, parse_facts

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
    """In a bucket: whether there are objects below it."""
    if not is_remote(path):
        return os.path.isdir(path)
    fs, name = located(path)
    try:
        return retried(path, lambda: any(each["name"].rstrip("/") != name for each in fs.ls(name, detail=True)))
    except Missing:
        return False


def size(path: str) -> int:
    return facts(path).size if is_remote(path) else os.path.getsize(path)


def facts(path: str) -> Facts:
    """What the store tells of a remote object; Missing where there is none."""
    fs, name = located(path)
    found = retried(path, lambda: fs.info(name))
    if found["type"] != "file":
        raise Missing(f"{path}: a folder, where a file is needed")
    return parse_facts(found)


def listing(folder: str) -> list[str]:
    """All files below a folder, at any depth, sorted; [] where there is none."""
    return sorted(listing_with_facts(folder)) if is_remote(folder) else _local_listing(folder)


def listing_with_facts(folder: str) -> dict[str, Facts]:
    """The same of a remote folder, with what is known of each."""
    fs, name = located(folder)
    scheme = folder.partition("://")[0]
    try:
        found = retried(folder, lambda: fs.find(name, detail=True))
    except Missing:
        return {}
    return {f"{scheme}://{key}": parse_facts(value) for key, value in found.items() if not key.endswith("/")}


def _local_listing(folder: str) -> list[str]:
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)


def glob(pattern: str) -> list[str]:
    """The files and folders that a pattern matches, sorted."""
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))
    fs, name = located(pattern)
    scheme = pattern.partition("://")[0]
    try:
        return sorted(f"{scheme}://{each}" for each in retried(pattern, lambda: fs.glob(name)))
    except Missing:
        return []


def remove(path: str) -> None:
    """Removes a file, or a folder with all that is in it; nothing happens where neither is."""
    if not is_remote(path):
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return
    fs, name = located(path)
    for each in [path, *listing(path)]:
        with contextlib.suppress(Missing):
            retried(each, functools.partial(fs.rm_file, located(each)[1] if each != path else name))


# Whole files.


def read_bytes(path: str) -> bytes:
    """A whole file, checked."""
    if not is_remote(path):
        return Path(path).read_bytes()
    known = facts(path)
    return _checked_read(path, known, 0, known.size) if known.size else b""


def _checked_read(path: str, known: Facts, start: int, stop: int) -> bytes:
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
            known = facts(path)  # another process may have written the object anew
            if known.size != stop:
                raise UserError(f"{path} changes while it is read; run the same command again") from None
            raise
        return data

    return retried(path, read)


def download(path: str, target: str | Path) -> Facts:
    """Copies a remote object to a file, which appears whole; checked while it comes."""
    fs, name = located(path)
    unsure: set[bytes] = set()

    def block(start: int, stop: int) -> bytes:
        data = bytes(fs.cat_file(name, start=start, end=stop))
        if len(data) != stop - start:
            raise Damaged(f"{path}: {len(data)} of {stop - start} bytes came")
        return data

    def copy() -> Facts:
        known = facts(path)
        check = Check(known, unsure)
        with new_file(str(target), "wb") as file:
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
        with builtins.open(local, "rb") as source, new_file(path, "wb") as target:
            shutil.copyfileobj(source, target, BLOCK_BYTES)
        return
    fs, name = located(path)
    retried(path, lambda: _sent(path, os.path.getsize(local), lambda: fs.put_file(str(local), name), local))


def write_bytes_atomic(path: str, data: bytes) -> None:
    """Writes a whole file."""
    if not is_remote(path):
        with new_file(path, "wb") as file:
            file.write(data)
        return
    fs, name = located(path)
    retried(path, lambda: _sent(path, len(data), lambda: fs.pipe_file(name, data), data))


def _sent(path: str, expected: int, send: Any, source: Any) -> None:
    """Sends an object and compares what has arrived."""
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
    """Writes a file that must not be there yet; False where it is. The store decides who of several is the first."""
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
    """Adds text to the end of a file. An object cannot be appended to: it is written anew; one writer at a time."""
    if not is_remote(path):
        with builtins.open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    before = read_bytes(path) if is_file(path) else b""
    write_bytes_atomic(path, before + text.encode())


# Open files.


def open(path: str, mode: str = "rb") -> IO[Any]:
    """A file to read ("rb", "r") or to write ("wb", "w") from its beginning; text is UTF-8.

    Reading a remote file fetches blocks as they are needed. What is written appears when the file is closed, whole, and
    does not appear when a `with` block ends by an error.
    """
    if mode in ("w", "wb"):
        return new_file(path, mode)
    if mode not in ("r", "rb"):
        raise ValueError(f"mode {mode!r}; files are opened with r, rb, w or wb")
    if not is_remote(path):
        return builtins.open(path, mode, encoding=None if "b" in mode else "utf-8")
    file = io.BufferedReader(_Reader(path, facts(path)), BLOCK_BYTES)
    return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


class _Reader(io.RawIOBase):
    """A remote object, read in blocks; its checksum is compared when it has been read from beginning to end."""

    def __init__(self, path: str, known: Facts):
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
                    raise UserError(f"{error}, or it was written anew meanwhile; run the same command again") from None
        return len(data)


def new_file(path: str, mode: str = "wb") -> IO[Any]:
    """A file to write that takes its place when it is closed."""
    file = _Writer(path)
    return file if mode == "wb" else _TextWriter(file, encoding="utf-8")  # type: ignore[return-value]


class _Writer(io.BufferedWriter):
    """Writes beside the place, or for a remote one in the system's temporary folder."""

    def __init__(self, path: str):
        self.path, self.abandoned = path, False
        if is_remote(path):
            descriptor, self._temporary = tempfile.mkstemp(prefix="gpt2-upload-")
            os.close(descriptor)
        else:
            self._temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        super().__init__(io.FileIO(self._temporary, "wb"))

    def close(self) -> None:
        if self.closed:
            return
        try:
            super().close()
            if not self.abandoned:
                if is_remote(self.path):
                    upload(self._temporary, self.path)
                else:
                    os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.abandoned = self.abandoned or exc_type is not None
        self.close()

    def __del__(self) -> None:
        self.abandoned = True  # never closed: nobody said that it is complete
        super().__del__()


class _TextWriter(io.TextIOWrapper):
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.buffer.abandoned = exc_type is not None  # type: ignore[attr-defined]
        self.close()
