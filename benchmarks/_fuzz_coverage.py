"""The lines of this repository that a reader reaches: they guide the fuzzer, and are its coverage.

Python's own tracing serves instead of atheris, so that fuzzing needs no compiled package, each fault is counted instead
of ending the run, and input N follows from the seed alone.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(f"{ROOT / folder}/" for folder in ("crawler", "estimator", "models", "serving"))
Tracer = Callable[[FrameType, str, Any], Any]


class ReachedLines:
    """Counts the lines reached within `traced`, of all lines of the functions that were entered there."""

    def __init__(self) -> None:
        self._left: dict[CodeType, set[int]] = {}  # lines not reached yet, of each function
        self.reached = self.total = 0

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Tracer | None:
        left = self._left.get(frame.f_code)
        if left is None:
            left = self._left[frame.f_code] = lines_of(frame.f_code)
            self.total += len(left)
        return self._line if left else None  # a function that was seen whole costs nothing

    def _line(self, frame: FrameType, event: str, argument: Any) -> Tracer:
        left = self._left[frame.f_code]
        if event == "line" and frame.f_lineno in left:
            left.discard(frame.f_lineno)
            self.reached += 1
        return self._line


def lines_of(code: CodeType) -> set[int]:
    """Numbers of a function's lines, without its first one unless that is all; none of another's function."""
    if not code.co_filename.startswith(OURS):
        return set()
    lines = {line for *_, line in code.co_lines() if line}
    return lines - {code.co_firstlineno} or lines
