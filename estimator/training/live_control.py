"""Obeys the commands of a run's control folder on all processes at the same step."""

import json
import time
from collections import deque

import jax

from estimator.parallel import agreement, distributed
from estimator.parallel.step_broadcast import StepBroadcast
from estimator.training.control_commands import obeyed, with_rate
from estimator.training.control_files import REPEATED, Answer, ControlFolder, Entry, Request
from estimator.training.control_watch import ControlWatch
from estimator.training.session import TrainingSession
from estimator.training.train_step import TrainState

PAUSE_SECONDS = 0.1  # between looks for commands in a paused run


class LiveControl:
    """Obeys on all processes what the `ControlWatch` of process 0 publishes.

    peak: the highest rate of the file's schedule, of which learning rates are fractions; None if there is none.
    Commands after `first_step` that an earlier start obeyed are due again at their steps. Creating it is a collective.
    """

    def __init__(self, run: str, first_step: int, session: TrainingSession, *, peak: float | None):
        self._folder = ControlFolder(run)
        self._session, self.peak = session, peak
        self._earlier = [Entry(*entry) for entry in agreement.from_first(self._folder.history)]
        self._again = [entry for entry in self._earlier if entry.step > first_step and entry.command in REPEATED]
        self._published: deque[str] = deque()
        self._broadcast = StepBroadcast() if jax.process_count() > 1 else None
        self._unanswered: list[tuple[Request, str]] = []
        self._watch: ControlWatch | None = None
        if distributed.is_first():
            publish = self._broadcast.publish if self._broadcast else self._published.append
            last = self._earlier[-1].request if self._earlier else ""
            self._watch = ControlWatch(self._folder, session, publish, peak, last, step=first_step)

    @property
    def steps(self) -> list[int]:
        """Steps after which commands are repeated, so that a device call has to end there."""
        return [entry.step for entry in self._again]

    def rate(self, step: int) -> tuple[float, str]:
        """The factor of the learning rate in force at a step by earlier commands, and a line about it or "".

        A learning rate that the file has been given since replaces those of earlier commands.
        """
        rates = [entry for entry in self._earlier if entry.command == "lr" and entry.step <= step]
        newest = max(reversed(rates), key=lambda entry: entry.step, default=None)  # of several at a step, the last one
        if newest is None or not self.peak or newest.value is None:
            return 1.0, ""
        command = f"lr {newest.value:g}, commanded at step {newest.step},"
        if newest.peak != self.peak:
            return 1.0, f"{command} is replaced by lr {self.peak:g} of the file"
        return newest.value / self.peak, f"{command} is in force"

    def begin(self, step: int, state: TrainState) -> TrainState:
        """Puts the learning rate in force that earlier commands have set, and obeys the commands of this step."""
        factor, line = self.rate(step)
        if line:
            self._session.monitor.note(line)
        return self.obey(step, with_rate(state, factor))

    def obey(self, step: int, state: TrainState) -> TrainState:
        """Obeys the commands that are due after `step` steps; while one pauses the run, waits for the next.

        All processes must call it equally often.
        """
        if self._watch:
            self._watch.step = step
        while True:
            for request in self._due(step):
                state, reply = obeyed(request, self._session, step, state, peak=self.peak)
                if reply.when_saved:
                    self._unanswered.append((request, reply.message))
                else:
                    self._answer(request, reply.message, ok=reply.ok)
            if self._unanswered and not self._session.checkpoints.is_writing:
                self._session.checkpoints.raise_failure()
                self.saved()
            if not self._session.is_paused or self._session.stop.requested:
                return state
            with self._session.monitor.paused("pause"):
                time.sleep(PAUSE_SECONDS)

    def _due(self, step: int) -> list[Request]:
        """The commands to obey now: those that an earlier start obeyed at this step, and new ones."""
        again = [entry for entry in self._again if entry.step == step]
        self._again = [entry for entry in self._again if entry.step != step]
        while self._watch and self._watch.rejected:
            name, fault = self._watch.rejected.popleft()
            rejected = {"event": "control", "command": "rejected", "request": name, "fault": fault}
            self._session.monitor.event(step, rejected)
        messages = (
            self._broadcast.due()
            if self._broadcast
            else [self._published.popleft() for _ in range(len(self._published))]
        )
        new = [Request(*json.loads(message)) for message in messages]
        if again or new:  # a bad step before them ends this attempt, whose `close` then refuses the new ones
            self._session.flush()
        if self._watch:
            for request in new:
                self._folder.record(Entry(step, *request, self.peak))
                self._folder.withdraw(request.name)
                self._watch.pending.discard(request.name)
        repeated = [Request(*entry[1:4]) for entry in again if entry.command != "lr" or entry.peak == self.peak]
        for request in [*repeated, *new]:
            value = {} if request.value is None else {"value": request.value}
            event = {"event": "control", "command": request.command, **value, "request": request.name}
            self._session.monitor.event(step, event)
        return [*repeated, *new]

    def _answer(self, request: Request, message: str, *, ok: bool = True) -> None:
        if self._watch:
            self._session.monitor.note(f"control: {request}: {message}")
            self._folder.answer(request.name, Answer(ok, self._watch.step, message))

    def saved(self) -> None:
        """Answers the requests that waited for a checkpoint to be on disk."""
        while self._unanswered:
            request, message = self._unanswered.pop(0)
            self._answer(request, message)

    def close(self) -> None:
        if self._watch:
            self._watch.close([request for request, _ in self._unanswered])
        if self._broadcast:
            self._broadcast.close()
