"""Takes the requests of a run's control folder while it trains."""

import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from estimator import storage
from estimator.errors import UserError
from estimator.training.control_files import REPEATED, Answer, ControlFolder, Request
from estimator.training.session import TrainingSession

POLL_SECONDS, REMOTE_POLL_SECONDS = 0.5, 10.0


@dataclass
class ControlWatch:
    """A thread of process 0 that looks for requests: refuses them, answers `status`, and publishes the others.

    publish: takes a request, as JSON, that all processes will obey. peak: as for `LiveControl`. last: the request that
    an earlier start obeyed last. step: of the answers. pending: requests that are published and not obeyed yet.
    rejected: names and faults of requests, which the run logs.
    """

    folder: ControlFolder
    session: TrainingSession
    publish: Callable[[str], Any]
    peak: float | None
    last: str
    step: int

    def __post_init__(self) -> None:
        self.pending: set[str] = set()
        self.rejected: deque[tuple[str, str]] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="control")
        self._thread.start()

    def close(self, unanswered: Sequence[Request]) -> None:
        """Refuses the requests in the folder, and those that were obeyed and whose checkpoint is not on disk."""
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(UserError, OSError):
            for request in unanswered:
                self._refuse(request.name, f"{request}: the run ended, or rolled back, before it was on disk")
            for request in self.folder.requests():
                if isinstance(request, Request):
                    self.folder.withdraw(request.name)
                    if request.command != "status":  # which reads the run's files where no run answers
                        self._refuse(request.name, f"{request}: the run ended, or rolled back, before it could obey")

    def _run(self) -> None:
        is_start, failed = True, False
        is_remote = storage.is_remote(self.folder.path)
        while True:
            try:
                if is_remote or os.path.isdir(self.folder.path):  # which the first request makes
                    self._look(is_start)
                is_start = failed = False
            except (UserError, OSError) as error:  # of storage: a later look may succeed
                if not failed:
                    print(f"warning: control: {error}", file=sys.stderr, flush=True)
                failed = True
            if self._closed.wait(REMOTE_POLL_SECONDS if is_remote else POLL_SECONDS):
                return

    def _look(self, is_start: bool) -> None:
        pending = set(self.pending)
        for request in self.folder.requests():
            if not isinstance(request, Request):
                name, fault = request
                self.rejected.append((name, fault))
                self._refuse(name, f"{fault}; it is in {self.folder.path}/rejected now")
            elif request.name in pending:
                continue
            elif is_start and request.name == self.last:
                self.folder.withdraw(request.name)  # the earlier start was killed when it had recorded this
            elif is_start and request.command not in REPEATED:
                self.folder.withdraw(request.name)
                self._refuse(request.name, f"{request}: was written before this run started")
            else:
                self._take(request)

    def _take(self, request: Request) -> None:
        if request.command == "status":
            self.folder.withdraw(request.name)
            self.folder.answer(request.name, Answer(True, self.step, self._status()))
        elif request.command == "lr" and not self.peak:
            self.folder.withdraw(request.name)
            self._refuse(request.name, "lr: this optimizer has no lr, or 0, to scale")
        else:
            self.pending.add(request.name)
            self.publish(json.dumps(request))

    def _status(self) -> str:
        status = self.session.monitor.status
        if not self.session.is_paused:
            return status
        duration = timedelta(seconds=round(time.monotonic() - self.session.paused_at))
        return f"paused after step {self.step:,}, for {duration} (h:mm:ss) so far; the newest record: {status}"

    def _refuse(self, name: str, message: str) -> None:
        print(f"warning: control: {name}: {message}", file=sys.stderr, flush=True)
        self.folder.answer(name, Answer(False, self.step, message))
