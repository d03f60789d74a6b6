"""Files with one URL a line, packed or not (`estimator.corpus.containers`); never more than a line in memory."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from estimator import storage
from estimator.corpus import containers, file_search, parts
from estimator.errors import UserError

SUFFIXES = (".txt", *containers.ENDINGS)
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
            found.setdefault(file_search.real(path), UrlList(path, archive_name(path)))
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
    if storage.is_folder(entry):
        paths = [path for path in storage.listing(entry) if _is_list(os.path.relpath(path, entry))]
        if not paths:
            raise UserError(f"{entry}: no file in this folder ends with {', '.join(SUFFIXES)}")
        return paths
    if storage.is_pattern(entry):
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
    numbers = itertools.count()
    with storage.open(path) as raw:
        whole = containers.Opened(path, os.path.basename(path), raw, raw.tell)
        for opened in containers.unpacked(whole, parts.refuse):
            while line := opened.file.readline(MAX_LINE):
                rest, number = line, next(numbers)
                while len(rest) == MAX_LINE and not rest.endswith(b"\n"):  # of no URL: the rest of it is passed over
                    rest = opened.file.readline(MAX_LINE)
                if b"\0" in line:
                    raise UserError(f"{opened.label}, line {number + 1}: not text; give files with one URL a line")
                text = line.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()
                if text and not text.startswith("#"):
                    columns = [column.strip(' <>"') for column in text.split("\t")]
                    yield number, next((column for column in columns if _SCHEME.match(column)), columns[0])
