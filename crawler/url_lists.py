"""Files with one URL a line: plain, or compressed with gzip, bzip2, xz or zstd; never more than a line in memory."""

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from estimator import storage
from estimator.errors import UserError, import_failed

SUFFIXES = (".txt", ".txt.gz", ".txt.bz2", ".txt.xz", ".txt.zst", ".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".warc.gz", "_data.xz", "_meta.xz")
MAX_LINE = 1 << 16
_SCHEME = re.compile(r"https?:", re.IGNORECASE)
# The months of Reddit submissions, as jcpeterson's lists and archives are named.
_MONTH = re.compile(r"RS_.*?2\d{3}-\d{2}")


class UrlList(NamedTuple):
    """A file of URLs. name: what its archives are called."""

    path: str
    name: str


def find(inputs: Sequence[str]) -> list[UrlList]:
    """The lists of files, folders (searched to the bottom) and patterns, each once, in the order of the inputs."""
    found: dict[str, UrlList] = {}
    for entry in inputs:
        for path in _expand(entry):
            found.setdefault(
                path if storage.is_remote(path) else os.path.realpath(path), UrlList(path, archive_name(path))
            )
    return list(found.values())


def archive_name(path: str) -> str:
    """RS_2017-04 for RS_2017-04.bz2.deduped.txt; the name up to the first point for others."""
    name = os.path.basename(path)
    month = _MONTH.match(name)
    return month[0] if month else name.partition(".")[0] or "urls"


def version(path: str) -> tuple[int, str]:
    """What changes when the file does: its size, and when it was written."""
    if storage.is_remote(path):
        known = storage.facts(path)
        return known.size, str(known)
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)


def _expand(entry: str) -> list[str]:
    if not storage.is_remote(entry) and os.path.exists(entry) and not os.path.isdir(entry):
        return [entry]
    if storage.is_folder(entry):
        paths = [path for path in storage.listing(entry) if _is_list(os.path.relpath(path, entry))]
        if not paths:
            raise UserError(f"{entry}: no file in this folder ends with {', '.join(SUFFIXES)}")
        return paths
    if any(sign in entry for sign in "*?["):
        paths = storage.glob(entry)
        if not paths:
            raise UserError(f"{entry}: no file matches this pattern")
        return paths
    if not storage.exists(entry):
        raise UserError(f"{entry}: no such file or folder; give files with one URL a line")
    return [entry]


def _is_list(path: str) -> bool:
    """Whether a file of a folder looks like a list: hidden files do not, nor the archives of an earlier download."""
    hidden = any(name.startswith(".") for name in path.split("/"))
    return path.endswith(SUFFIXES) and not path.endswith(ARCHIVES) and not hidden


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The number, from 0, and the URL of each line that is neither blank nor a comment (#).

    Of columns that tabs separate, the URL is in the first that begins with http, or in the first of all.
    """
    with contextlib.closing(_open(path)) as file:
        for number in itertools.count():
            line = rest = _read_line(file, path)
            if not line:
                return
            while len(rest) == MAX_LINE and not rest.endswith(b"\n"):  # of no URL: the rest of it is passed over
                rest = _read_line(file, path)
            if b"\0" in line:
                raise UserError(f"{path}, line {number + 1}: not text; give files with one URL a line")
            text = line.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()
            if text and not text.startswith("#"):
                columns = [column.strip(' <>"') for column in text.split("\t")]
                yield number, next((column for column in columns if _SCHEME.match(column)), columns[0])


def _read_line(file: IO[bytes], path: str) -> bytes:
    try:
        return file.readline(MAX_LINE)
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged or incomplete ({error}); copy or fetch it again") from None
    except OSError as error:
        if error.errno:
            raise
        raise UserError(f"{path}: damaged ({error}); copy or fetch it again") from None  # bzip2 says it so


def _open(path: str) -> IO[bytes]:
    file = storage.open(path, "rb")
    if path.endswith(".gz"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if path.endswith(".bz2"):
        return bz2.open(file, "rb")
    if path.endswith(".xz"):
        return lzma.open(file, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(_Zstd(file, path))
    return file


class _Zstd(io.RawIOBase):
    """The text of a zstd file; unlike the package's own reader it notices a file that was cut."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise import_failed(
                error, f"{path}: reading it needs the package zstandard: pip install -r requirements-data.txt"
            ) from error
        self._file = file
        self._path = path
        self._zstandard = zstandard
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._begun = False
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._file.read(1 << 16)
            if not packed:
                if self._begun and not self._frame.eof:
                    raise UserError(f"{self._path}: incomplete; copy or fetch it again")
                return 0
            if self._frame.eof:
                self._frame = self._zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            self._begun = True
            try:
                self._text = memoryview(self._frame.decompress(packed))
            except self._zstandard.ZstdError as error:
                raise UserError(f"{self._path}: damaged ({error}); copy or fetch it again") from None
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
