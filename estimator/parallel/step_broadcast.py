"""Delivers messages to all processes at the same step, without a collective in any step.

Messages travel through the key-value store of JAX's coordination service, read by a thread. On reading one, each
process proposes one of its next calls of `due`, and the latest proposal is taken; all processes make the same calls.
A call waits only if its number was proposed and a proposal is still missing.
"""

import contextlib
import math
import secrets
import threading
import time
from typing import Any

import jax

from estimator.parallel import agreement

POLL_SECONDS = 0.25
AHEAD_SECONDS = 1.0  # proposals are this far ahead, so that they arrive before they are needed


class StepBroadcast:
    """Messages of process 0, or one message of any process, to all of several. Creating it is a collective."""

    def __init__(self) -> None:
        from jax._src import distributed  # JAX has no public name for the client of its key-value store

        self._client: Any = distributed.global_state.client
        self._prefix = f"broadcast/{agreement.from_first(lambda: secrets.token_hex(8))}"
        self._changed = threading.Condition()
        self._calls = self._published = 0
        self._received: list[str] = []
        self._proposals: list[int] = []
        self._targets: list[float] = []  # call numbers; infinite when another process has finished first
        self._delivered = 0
        self._announced = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="broadcast")
        self._thread.start()

    def publish(self, message: str) -> None:
        """Sends a message; on process 0, from any thread."""
        self._published += 1
        self._client.key_value_set(f"{self._prefix}/message/{self._published:06}", message)

    def announce(self, message: str) -> None:
        """Sends the only message of this broadcast; on any process, also in the handler of a signal."""
        self._announced = message

    def due(self) -> list[str]:
        """The messages to be obeyed now; all processes must call it equally often."""
        with self._changed:
            self._calls += 1
            while any(self._calls >= proposal for proposal in self._proposals[len(self._targets) :]):
                self._changed.wait()
            first = self._delivered
            while self._delivered < len(self._targets) and self._targets[self._delivered] <= self._calls:
                self._delivered += 1
            return self._received[first : self._delivered]

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # the coordinator may have left
            self._client.key_value_set(f"{self._prefix}/closed/{jax.process_index()}", "")

    def _run(self) -> None:
        before, calls = time.monotonic(), 0
        while not self._closed.wait(POLL_SECONDS if len(self._proposals) == len(self._targets) else 0.01):
            now = time.monotonic()
            ahead = math.ceil(AHEAD_SECONDS * (self._calls - calls) / max(now - before, 1e-3))
            before, calls = now, self._calls
            with contextlib.suppress(RuntimeError):  # the service is gone: JAX ends this process soon
                if self._announced and not self._proposals:  # another process may have been first
                    self._client.key_value_set(f"{self._prefix}/message/{1:06}", self._announced, allow_overwrite=True)
                self._receive(ahead)
                self._decide()

    def _receive(self, ahead: int) -> None:
        messages = sorted(self._client.key_value_dir_get(f"{self._prefix}/message/"))
        for number, (_, message) in enumerate(messages):
            if number < len(self._proposals):
                continue
            with self._changed:
                self._received.append(message)
                self._proposals.append(self._calls + 1 + ahead)
            ready = f"{self._prefix}/ready/{number}/{jax.process_index()}"
            self._client.key_value_set(ready, str(self._proposals[number]))

    def _decide(self) -> None:
        """Finds the calls that deliver the received messages, in order."""
        for number in range(len(self._targets), len(self._proposals)):
            ready = self._client.key_value_dir_get(f"{self._prefix}/ready/{number}/")
            if len(ready) == jax.process_count():
                target = max([int(value) for _, value in ready] + self._targets[-1:])
            elif self._client.key_value_dir_get(f"{self._prefix}/closed/"):
                target = math.inf
            else:
                return
            with self._changed:
                self._targets.append(target)
                self._changed.notify_all()
