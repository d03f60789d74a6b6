"""Tells a network outage from hosts that are gone.

A failure is the host's only if a new connection, to any host, is made after it: a connection that was open before says
nothing about names that no longer resolve or routes that are lost. Where a host took the connection and said nothing,
another host has to answer over a new one: a dead proxy or a captive portal takes any connection. While no host does,
all workers wait.
"""

import asyncio
import enum
import sys
import time
from collections.abc import Awaitable, Callable, Iterable

from tqdm import tqdm

from crawler import outcomes, urls
from crawler.transport import RequestError


class Evidence(enum.IntEnum):
    """What has to come from some host after a failure to show that the network is not at fault."""

    NONE = 0
    """The failure is no outage's: the host answered."""
    CONNECTION = 1
    ANSWER = 2


# Asks the origin of a URL for a new connection or an answer over one.
Probe = Callable[[str, Evidence], Awaitable[bool]]
_SILENT = (outcomes.TIMED_OUT, outcomes.BROKEN, outcomes.TLS_FAILED)
# Probes begin this far apart, as a list may be full of hosts that are gone; one probe judges all earlier failures.
PROBE_SECONDS = 1.0
FIRST_PAUSE = 1.0  # seconds
POLL_SECONDS = 0.05
REFERENCES = 32
PROBED_TOGETHER = 3
# With fewer hosts that have ever answered, these hosts may be gone themselves, so the wait has a limit. It is shorter
# while only a few hosts have failed, which may be all that the list names.
ENOUGH_REFERENCES = 3
ENOUGH_FAILURES = 5
BLIND_SECONDS = 600.0
FEW_HOSTS_SECONDS = 30.0
LONGEST_PAUSE = 30.0
REMINDER_SECONDS = 600.0
_WAITS = "waiting for the network (Ctrl-C stops, the same command continues later)"


def evidence_needed(error: RequestError) -> Evidence:
    """What would show that a failed request is the fault of its host."""
    if error.outcome in _SILENT or (error.outcome == outcomes.CONNECT_FAILED and error.silent):
        return Evidence.ANSWER
    unconnected = error.outcome in (outcomes.DNS_FAILED, outcomes.CONNECT_FAILED)
    return Evidence.CONNECTION if unconnected else Evidence.NONE


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


class Network:
    """The state of the network, as seen by all requests of a download.

    probe: whether an origin gives the evidence asked for. references: origins that answered in an earlier run.
    should_stop: ends a pause.
    """

    def __init__(
        self,
        probe: Probe,
        *,
        references: Iterable[str] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._probe = probe
        self._references = dict.fromkeys(references)  # the one probed or seen last is at the end
        self._should_stop = should_stop
        self._failed: dict[str, None] = {}  # since the last answer
        self._one = asyncio.Lock()
        never = float("-inf")
        self._probed_at = dict.fromkeys(Evidence, never)
        self._up_at = dict.fromkeys(Evidence, never)
        self._back_at = dict.fromkeys(Evidence, never)
        self._is_given_up = False

    def connected(self, *, opened_at: float) -> None:
        """Records that a connection was begun at `opened_at` (time.monotonic) and made."""
        self._up_at[Evidence.CONNECTION] = max(self._up_at[Evidence.CONNECTION], opened_at)

    def answered(self, url: str, *, opened_at: float) -> None:
        """Records that a server answered over a connection that was begun at `opened_at` (time.monotonic)."""
        self.connected(opened_at=opened_at)
        origin = urls.origin_of(url)
        if self._is_trusted(origin):
            self._up_at[Evidence.ANSWER] = max(self._up_at[Evidence.ANSWER], opened_at)
            self._is_given_up = False
            self._failed.clear()
        _put_last(self._references, origin)

    async def was_down(self, url: str, *, since: float, needed: Evidence) -> bool:
        """Whether an outage made the request begun at `since` fail, which has just happened.

        Returns after some host gave the evidence needed, so that a request made now is not lost to the same outage.
        """
        failed_at = time.monotonic()
        _put_last(self._failed, urls.origin_of(url))
        async with self._one:
            next_probe = self._probed_at[needed] + PROBE_SECONDS
            while True:
                if self._back_at[needed] > since or self._should_stop():
                    return True
                if self._is_given_up or self._up_at[needed] > failed_at:
                    return False
                if time.monotonic() >= next_probe:
                    break
                await asyncio.sleep(POLL_SECONDS)
            return False if await self._is_up(needed) else await self._wait(needed)

    async def _wait(self, needed: Evidence) -> bool:
        """Waits for the network; returns False if it gives up because there may be none to wait for."""
        began = reminded_at = time.monotonic()
        lost = "can be reached" if needed is Evidence.CONNECTION else "answers"
        _tell(f"no host {lost} since {time.strftime('%H:%M:%S')}: {_WAITS}")
        pause = FIRST_PAUSE
        while not self._should_stop():
            await asyncio.sleep(min(pause, 0.5))  # in steps, to stop promptly
            pause -= 0.5
            if pause > 0:
                continue
            now = time.monotonic()
            waited = now - began
            if await self._is_up(needed):
                self._back_at.update((kind, time.monotonic()) for kind in Evidence if kind <= needed)
                _tell(f"the network is back after {waited:.0f} s")
                return True
            if waited > self._patience():
                self._is_given_up = True
                _tell(f"no host in {waited:.0f} s: continuing; --retry tries the unreachable ones again")
                return False
            if now - reminded_at >= REMINDER_SECONDS:
                reminded_at = now
                _tell(f"no host {lost} for {waited / 60:.0f} min: {_WAITS}")
            pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, waited))
        return True

    def _patience(self) -> float:
        if len(self._references) >= ENOUGH_REFERENCES:
            return float("inf")
        few = not self._references and len(self._failed) < ENOUGH_FAILURES
        return min(BLIND_SECONDS, FEW_HOSTS_SECONDS) if few else BLIND_SECONDS

    async def _is_up(self, needed: Evidence) -> bool:
        """Probes some hosts that have answered, in turn, and some that have not."""
        self._probed_at[needed] = began = time.monotonic()
        known = [origin for origin in self._references if needed is Evidence.CONNECTION or self._is_trusted(origin)]
        probed = known[:PROBED_TOGETHER]
        for origin in probed:
            _put_last(self._references, origin)
        probed += [origin for origin in list(self._failed)[-PROBED_TOGETHER:] if origin not in probed]
        if not any(await asyncio.gather(*(self._probe(origin, needed) for origin in probed))):
            return False
        self._up_at.update((kind, max(self._up_at[kind], began)) for kind in Evidence if kind <= needed)
        return True

    def _is_trusted(self, origin: str) -> bool:
        """Whether an answer is the host's: a captive portal answers in the place of any host without a certificate."""
        return origin.startswith("https:") or not any(known.startswith("https:") for known in self._references)


def _put_last(origins: dict[str, None], origin: str) -> None:
    origins.pop(origin, None)
    origins[origin] = None
    if len(origins) > REFERENCES:
        del origins[next(iter(origins))]
