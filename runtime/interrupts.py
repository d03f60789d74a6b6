"""Ctrl-C and SIGTERM as a flag that a loop looks at once a step."""

import os
import signal
from types import FrameType

from runtime.errors import EXIT_INTERRUPTED


class StopRequest:
    """Within `with StopRequest() as stop`, the first signal sets `stop.signal`; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def requested(self) -> bool:
        """For a loop to look at once a step."""
        return self.signal is not None

    @property
    def name(self) -> str:
        return self.signal.name if self.signal else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            # Not an exception: background threads that write a checkpoint would hold the process up.
            os._exit(EXIT_INTERRUPTED)
        self.signal = signal.Signals(number)
