"""What survives a kill at any instant: a spool of pages and a journal of finished URLs, both only ever appended to.

A page goes into the spool first and its line into the journal after that, so a line always speaks of a page that is
there; a page without its line is fetched again. A line that was cut is cut off at the next start.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crawler.outcomes import FETCHED
from estimator import json_text
from estimator.json_text import CHECKSUM, is_whole, sealed
from estimator.shards.framing import read_at

SEGMENT_BYTES = 1 << 30
# Of the values of lines of earlier versions, which have no checksum.
EARLIER_TYPES = {
    "url": str, "outcome": str | None, "attempts": int, "date": str, "status": int, "bytes": int, "final": str,
    "detail": str, "sha256": str, "place": list, "assembled": dict,
}  # fmt: skip
Entry = dict[str, Any]


class JournalPosition(NamedTuple):
    """Position of a page in the spool."""

    segment: int
    offset: int
    length: int


class Spool:
    """Pages in the order in which they came, in files of about SEGMENT_BYTES; each process writes its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._next = max((int(path.name.partition(".")[0]) for path in self._segments()), default=-1) + 1
        self._written = 0
        self._output = None
        self._inputs: dict[int, Any] = {}

    def _segments(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name.partition(".")[0].isdigit())

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:06d}.warc.gz"

    def append(self, page: bytes) -> JournalPosition:
        """Writes a page; when this returns, the system has it."""
        if self._output is None or self._written >= SEGMENT_BYTES:
            self.close()
            self._output = open(self._path(self._next), "xb", buffering=0)  # noqa: SIM115
            self._next, self._written = self._next + 1, 0
        place = JournalPosition(self._next - 1, self._written, len(page))
        _write_all(self._output, page)
        self._written += len(page)
        return place

    def read(self, place: JournalPosition) -> bytes:
        """The bytes of a page; fewer, or none, where they were lost."""
        file = self._inputs.get(place.segment)
        if file is None:
            if len(self._inputs) >= 64:
                self._inputs.pop(next(iter(self._inputs))).close()
            try:
                file = open(self._path(place.segment), "rb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:
                return b""
            self._inputs[place.segment] = file
        return read_at(file.fileno(), place.length, place.offset)

    @property
    def has_pages(self) -> bool:
        """Whether pages of earlier processes are here."""
        return bool(self._segments())

    def sync(self) -> None:
        """Waits until the disk has everything."""
        if self._output is not None:
            os.fsync(self._output.fileno())

    def remove(self) -> None:
        """Deletes all pages, which are somewhere else now."""
        self.close()
        for path in self._segments():
            path.unlink()

    def close(self) -> None:
        for file in (*self._inputs.values(), *([self._output] if self._output is not None else [])):
            file.close()
        self._inputs.clear()
        self._output = None


class Journal:
    """One JSON object a line, with a checksum; the last one of a URL counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._repair()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def _repair(self) -> None:
        """Takes off a last line that has no end."""
        with open(self.path, "r+b") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - (1 << 16))
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                file.truncate(end)

    @property
    def size(self) -> int:
        """Bytes of all complete lines."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, entry: Entry) -> None:
        """Writes a line; when this returns, the system has it."""
        line = json.dumps(sealed(entry), ensure_ascii=True, separators=(",", ":"))
        _write_all(self._file, line.encode("ascii") + b"\n")

    def last(self) -> tuple[int, Entry]:
        """Offset and entry of the last line; an empty entry where there is none, or a damaged one."""
        size, length = self.size, 1 << 16
        with open(self.path, "rb") as file:
            while True:
                start = file.seek(max(0, size - length))
                tail = file.read()
                newline = tail.rfind(b"\n", 0, -1)
                if newline >= 0 or start == 0:
                    return start + newline + 1, _entry(tail[newline + 1 :]) or {}
                length *= 2

    def take_back(self, size: int) -> None:
        """Takes off all lines behind this size."""
        self._file.truncate(size)

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry | None]]:
        """The entries from an offset on, each with the offset of the next; None for a line that is damaged."""
        with open(self.path, "rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                yield start, _entry(line)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _entry(line: bytes) -> Entry | None:
    """None for a line that is not as it was written."""
    try:
        entry = json_text.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not is_whole(entry):
        return None
    return entry if entry.pop(CHECKSUM, None) or _is_earlier(entry) else None


def _is_earlier(entry: Entry) -> bool:
    """Whether an entry without a checksum can be one of an earlier version."""
    if not all(name in EARLIER_TYPES and isinstance(value, EARLIER_TYPES[name]) for name, value in entry.items()):
        return False
    numbers = [*entry.get("place", ()), *entry.get("assembled", {}).values()]
    complete = "final" in entry and len(entry["place"]) == 3 if "place" in entry else entry.get("outcome") != FETCHED
    return complete and all(type(number) is int for number in numbers)


def _write_all(file: Any, data: bytes) -> None:
    """An unbuffered write may take a part only; the next attempt then says why (such as a full disk)."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
