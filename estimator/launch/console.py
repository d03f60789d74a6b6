"""The logs of all workers on one console, line by line, as they come.

Worker 0 speaks for the run, so its lines are as they are; those of the others begin with their number in brackets.
"""

import sys
from collections.abc import Callable


class Console:
    """Puts together whole lines of each worker from the parts of its log that arrive."""

    def __init__(self, place: str, write: Callable[[str], object] = lambda line: print(line, flush=True)):
        self._place = place
        self._write = write
        self._parts: dict[int, bytes] = {}

    def log(self, worker: int, part: bytes) -> None:
        *lines, rest = (self._parts.pop(worker, b"") + part).split(b"\n")
        for line in lines:
            self._line(worker, line)
        if rest:
            self._parts[worker] = rest

    def flush(self) -> None:
        """Shows last lines that have no line end: nothing more will come."""
        for worker in sorted(self._parts):
            self._line(worker, self._parts[worker])
        self._parts.clear()

    def note(self, text: str) -> None:
        """A line of the launcher itself."""
        print(f"{self._place}: {text}", file=sys.stderr, flush=True)

    def _line(self, worker: int, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._write(text if worker == 0 else f"[{worker}] {text}")
