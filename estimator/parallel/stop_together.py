"""Stops all processes of a run at the same step, whichever of them receives a signal.

JAX's own notice of preemption is not used: its counter of calls belongs to the whole process, and Orbax sets it to the
number of the step that it saves, so that processes would stop at different steps and wait for each other forever.
"""

import os
import signal
from types import FrameType

import jax

from estimator.errors import EXIT_INTERRUPTED
from estimator.parallel.signals import StopRequest
from estimator.parallel.step_broadcast import StepBroadcast


class StopTogether(StopRequest):
    """A `StopRequest` that all processes see at the same step. Entering it is a collective."""

    def __init__(self) -> None:
        super().__init__()
        self._noticed: signal.Signals | None = None
        self._broadcast: StepBroadcast | None = None

    def __enter__(self) -> "StopTogether":
        self._broadcast = StepBroadcast()
        super().__enter__()
        if self._noticed and self.signal is None:  # before a rollback
            self._broadcast.announce(self._noticed.name)
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self._broadcast:
            self._broadcast.close()
            self._broadcast = None

    @property
    def requested(self) -> bool:
        """Whether all processes stop here. All must look equally often."""
        if self.signal is None and self._broadcast:
            for name in self._broadcast.due():
                self.signal = signal.Signals[name]
        return super().requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noticed is not None and number == signal.SIGINT:
            os._exit(EXIT_INTERRUPTED)
        self._noticed = signal.Signals(number)
        if self._broadcast:
            self._broadcast.announce(self._noticed.name)


def stop_request() -> StopRequest:
    """For a `with` block that all processes of the run enter together."""
    return StopRequest() if jax.process_count() == 1 else StopTogether()
