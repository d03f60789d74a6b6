"""Marks of finished work: JSON files with facts, and with the sizes and checksums of the files that the work left.

A mark is written last. Work without one, or with one that does not fit its files, is done again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import google_crc32c

from estimator import json_text, storage
from estimator.json_text import CHECKSUM, is_whole, sealed

BLOCK = 1 << 22


class Sum(NamedTuple):
    """Of a file: its size in bytes, and the CRC-32C of its contents."""

    size: int = 0
    crc32c: int = 0

    def extended(self, data: bytes) -> "Sum":
        return Sum(self.size + len(data), google_crc32c.extend(self.crc32c, data))


class Summed:
    """A binary file for writing, with the checksum of all bytes written."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.sum = Sum()

    def write(self, data: bytes | memoryview) -> int:
        contents = bytes(data)
        self.sum = self.sum.extended(contents)
        return self._file.write(contents)

    def flush(self) -> None:
        self._file.flush()


def write_mark(path: str, facts: Mapping[str, Any], files: Mapping[str, Sum]) -> None:
    """files: by their names, as seen from the folder of the mark."""
    storage.write_bytes_atomic(path, json.dumps(sealed({**facts, "files": files})).encode())


def read_mark(path: Path) -> dict[str, Any] | None:
    """The facts of a mark that is whole and whose files have their sizes."""
    try:
        facts = json_text.loads(path.read_bytes())
        sums = sums_of(facts["files"])
        whole = (
            facts.get(CHECKSUM)
            and is_whole(facts)
            and all((path.parent / name).stat().st_size == each.size for name, each in sums.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole else None


def sums_of(values: Any) -> dict[str, Sum]:
    """The sums of files by their names, from JSON. Raises ValueError for anything else."""
    try:
        found = {name: Sum(*each) for name, each in values.items()}
        if all(type(number) is int for each in found.values() for number in each):
            return found
    except (TypeError, AttributeError):
        pass
    raise ValueError("it has no sizes and checksums of files")


def forget_damaged(path: Path) -> None:
    """Removes a mark that is damaged, or of which a file does not have its checksum."""
    facts = read_mark(path)
    if not facts or not all(has_sum(path.parent / name, each) for name, each in sums_of(facts["files"]).items()):
        path.unlink(missing_ok=True)


def has_sum(path: str | Path, expected: Sum) -> bool:
    """Whether a file is as it was written; in a bucket, which keeps checksums itself, whether it has the size."""
    if not storage.is_file(str(path)) or storage.size(str(path)) != expected.size:
        return False
    return storage.is_remote(path) or sum_of(Path(path)) == expected


def sum_of(path: Path) -> Sum:
    """Reads a file."""
    found = Sum()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found = found.extended(block)
    return found
