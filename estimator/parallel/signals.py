"""Turns Ctrl-C, SIGTERM and SIGHUP (closed terminal) into a flag that a loop checks once per step."""

import os
import signal
from types import FrameType

from estimator.errors import EXIT_INTERRUPTED


def stop_signals() -> list[signal.Signals]:
    """Signals that request save-and-stop; SIGHUP stays ignored under `nohup`."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if is_ignored else [signal.SIGHUP])]


class StopRequest:
    """In `with StopRequest() as stop`, the first signal sets `stop.signal`; a second Ctrl-C exits immediately.

    command: what asked for the stop, if no signal did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.command = ""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def requested(self) -> bool:
        """Whether a signal arrived or a command asks for it; checked once per step."""
        return self.signal is not None or bool(self.command)

    def ask(self, command: str) -> None:
        """Requests a stop as a signal does. All processes must do so at the same step."""
        self.command = command

    @property
    def name(self) -> str:
        return self.signal.name if self.signal else self.command

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            # Not an exception, because threads that write a checkpoint would delay the exit.
            os._exit(EXIT_INTERRUPTED)
        self.signal = signal.Signals(number)
