"""Whether the network is there: what tells a host that is gone from a cable that is pulled out.

That a host cannot be reached is believed only if some host answers at the same time: one that was asked anyway, or one
that has answered before and is tried for this. While none can be reached, everybody waits.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable

from tqdm import tqdm

from text.web import outcomes, urls

Reach = Callable[[str, int], Awaitable[bool]]
UNREACHED = (outcomes.DNS_FAILED, outcomes.CONNECT_FAILED, outcomes.TIMED_OUT)
# Hosts are not tried more often than this, for a list may be full of hosts that are gone.
FRESH_SECONDS = 1.0
REFERENCES = 32
TRIED_AT_ONCE = 3
# With fewer hosts that have ever answered it may be these that are gone. Then the network is missing only where so many
# hosts in a row cannot be reached, and it is not waited for longer than this.
ENOUGH_REFERENCES = 3
ENOUGH_FAILURES = 5
BLIND_SECONDS = 600.0
LONGEST_PAUSE = 30.0


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


class Network:
    """What all requests of a download have seen of the network.

    reach: whether a connection to a host and port can be made. references: (host, port) that have answered on another
    day. should_stop: ends a pause.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        references: Iterable[tuple[str, int]] = (),
        should_stop: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = _tell,
        first_pause: float = 1.0,
        blind_seconds: float = BLIND_SECONDS,
    ) -> None:
        self._reach = reach
        self._references = dict.fromkeys(references)  # the one that was tried or seen last is at the end
        self._should_stop = should_stop
        self._tell = tell
        self._first_pause = first_pause
        self._blind_seconds = blind_seconds
        self._failed: dict[tuple[str, int], None] = {}  # since the last answer
        self._one = asyncio.Lock()
        self._answered_at = self._tried_at = self._back_at = float("-inf")
        self._is_given_up = False

    def answered(self, url: str) -> None:
        """Notes that a server was reached."""
        self._answered_at = time.monotonic()
        self._is_given_up = False
        self._failed.clear()
        _put_last(self._references, (urls.host_of(url), urls.port_of(url)))

    async def was_down(self, url: str, *, since: float) -> bool:
        """Whether it was for want of a network that a request begun at `since` did not reach the host of a URL.

        Returns when the network is back.
        """
        _put_last(self._failed, (urls.host_of(url), urls.port_of(url)))
        async with self._one:
            if self._back_at > since:
                return True
            if self._is_given_up or self._answered_at > since or self._tried_at > time.monotonic() - FRESH_SECONDS:
                return False
            if not self._references and len(self._failed) < ENOUGH_FAILURES:
                return False
            if await self._is_there():
                return False
            return await self._wait()

    async def _wait(self) -> bool:
        """Until the network is back; False where there may be none to wait for."""
        began = time.monotonic()
        self._tell(
            f"no host can be reached since {time.strftime('%H:%M:%S')}: waiting for the network; it goes on by itself"
        )
        pause = self._first_pause
        while not self._should_stop():
            await asyncio.sleep(min(pause, 0.5))  # in steps, to stop at once
            pause -= 0.5
            if pause > 0:
                continue
            waited = time.monotonic() - began
            if await self._is_there():
                self._back_at = time.monotonic()
                self._tell(f"the network is back after {waited:.0f} s")
                return True
            if len(self._references) < ENOUGH_REFERENCES and waited > self._blind_seconds:
                self._is_given_up = True
                self._tell(f"no host in {waited:.0f} s: going on; --retry tries those again that cannot be reached")
                return False
            pause = min(LONGEST_PAUSE, max(self._first_pause, waited))
        return True

    async def _is_there(self) -> bool:
        """Tries some hosts that have answered, each in its turn, and some that have not."""
        tried = list(self._references)[:TRIED_AT_ONCE]
        for place in tried:
            _put_last(self._references, place)
        tried += list(self._failed)[-TRIED_AT_ONCE:]
        if not any(await asyncio.gather(*(self._reach(*place) for place in tried))):
            return False
        self._tried_at = time.monotonic()
        return True


def _put_last(places: dict[tuple[str, int], None], place: tuple[str, int]) -> None:
    places.pop(place, None)
    places[place] = None
    if len(places) > REFERENCES:
        del places[next(iter(places))]
