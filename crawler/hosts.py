"""One gate for each host: one request at a time, a pause between two, and its robots.txt.

Every request, of a page, of a redirect that leads here from elsewhere, of robots.txt, goes through the gate of its
host, and no gate is ever held while another is waited for.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from crawler import outcomes, robots, urls
from crawler.network import Evidence, Network, evidence_needed
from crawler.robots import AllowAll, ParsedRules, Rules
from crawler.transport import REDIRECTS, Answer, Bandwidth, Connection, RequestError

# Gates that nobody uses are kept for redirects to come; this many of them.
IDLE_GATES = 500
NETWORK_LOGIN = 511  # RFC 6585: what a captive portal answers in the place of any host


class Politeness(NamedTuple):
    """Seconds. delay: from the end of an answer to the next request; max_crawl_delay: the longest that we wait for."""

    delay: float = 1.0
    max_crawl_delay: float = 30.0


class RobotsError(Exception):
    """robots.txt cannot be read now, which forbids the site.

    retry_after: seconds that the server asks for. unreached: what would show that it is not the network's fault.
    """

    def __init__(
        self,
        outcome: str,
        detail: str,
        *,
        retry_after: float | None = None,
        unreached: Evidence = Evidence.NONE,
    ) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.unreached = unreached
        self.outcome = outcome
        self.detail = detail
        self.retry_after = retry_after


class Gate:
    """The way to one host."""

    def __init__(self, connection: Connection, *, delay: float, bandwidth: Bandwidth, network: Network) -> None:
        self._connection = connection
        self._bandwidth = bandwidth
        self._network = network
        self.delay = delay
        self._one_request = asyncio.Lock()
        self.reading_rules = asyncio.Lock()
        self.rules: dict[str, Rules] = {}
        self.free_at = 0.0
        self.users = 0

    async def get(self, url: str, *, cookies: str = "", cut_at: int | None = None, is_probe: bool = False) -> Answer:
        """Waits for its turn and fetches, a probe over a new connection. Raises RequestError."""
        async with self._one_request:
            if is_probe:
                await self._connection.close()
            await asyncio.sleep(max(0.0, self.free_at - time.monotonic(), self._bandwidth.wait_seconds()))
            received = 0
            try:
                answer = await self._connection.get(url, cookies=cookies, cut_at=cut_at)
                received = answer.received_bytes
                if answer.status == NETWORK_LOGIN:
                    raise RequestError(outcomes.BROKEN, f"{answer.status}: the network asks for a login")
                self._network.answered(url, opened_at=self._connection.opened_at)
                return answer
            except RequestError as error:
                received = received or error.received_bytes
                if error.received_bytes or error.outcome == outcomes.WRONG_TYPE:
                    self._network.answered(url, opened_at=self._connection.opened_at)
                raise
            finally:
                self._bandwidth.spend(received)
                self.free_at = time.monotonic() + self.delay

    def pause(self, seconds: float) -> None:
        """No request before so many seconds from now."""
        self.free_at = max(self.free_at, time.monotonic() + seconds)

    def learn(self, origin: str, rules: Rules) -> None:
        self.rules[origin] = rules
        self.delay = max(self.delay, rules.delay)

    async def rest(self) -> None:
        """Closes the connection where nobody uses it; the next request opens another."""
        if not self._one_request.locked():
            await self._connection.close()


class Hosts:
    """The gates of the hosts in use, and the last few that were, without their connections."""

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        politeness: Politeness,
        bandwidth: Bandwidth,
        network: Network,
    ) -> None:
        self._open_connection = open_connection
        self._politeness = politeness
        self._bandwidth = bandwidth
        self.network = network
        self._used: dict[str, Gate] = {}
        self._idle: OrderedDict[str, Gate] = OrderedDict()

    def take(self, host: str) -> Gate:
        """The gate of a host, to be given back."""
        gate = self._used.get(host) or self._idle.pop(host, None)
        if gate is None:
            connection, delay = self._open_connection(), self._politeness.delay
            gate = Gate(connection, delay=delay, bandwidth=self._bandwidth, network=self.network)
        self._used[host] = gate
        gate.users += 1
        return gate

    async def give_back(self, host: str) -> None:
        gate = self._used[host]
        gate.users -= 1
        if not gate.users:
            self._idle[host] = self._used.pop(host)
            self._forget()
            await gate.rest()

    @contextlib.asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[Gate]:
        try:
            yield self.take(host)
        finally:
            await self.give_back(host)

    async def close(self) -> None:
        for gate in (*self._used.values(), *self._idle.values()):
            await gate.rest()

    def _forget(self) -> None:
        # The oldest comes first; one that has to pause still remembers for how long.
        while len(self._idle) > IDLE_GATES:
            if next(iter(self._idle.values())).free_at > time.monotonic():
                return
            self._idle.popitem(last=False)

    async def get(self, url: str, *, cookies: str = "", cut_at: int | None = None) -> Answer:
        """Fetches through the gate of the URL's host. Raises RequestError."""
        async with self.hold(urls.host_of(url)) as gate:
            return await gate.get(url, cookies=cookies, cut_at=cut_at)

    async def answers(self, origin: str) -> bool:
        """Whether an origin gives its robots.txt, or any other answer, over a new connection."""
        try:
            async with self.hold(urls.host_of(origin)) as gate:
                await gate.get(origin + robots.PATH, cut_at=robots.MAX_BYTES, is_probe=True)
        except RequestError as error:
            return evidence_needed(error) is Evidence.NONE
        return True

    async def rules(self, url: str, *, agent: str) -> Rules:
        """What the robots.txt of a URL's origin, read once, says to this agent. Raises RobotsError."""
        origin = urls.origin_of(url)
        async with self.hold(urls.host_of(url)) as gate, gate.reading_rules:
            rules = gate.rules.get(origin)
            if rules is None:
                rules = await self._read_rules(origin, agent=agent)
                gate.learn(origin, rules)
            if rules.delay > self._politeness.max_crawl_delay:
                raise RobotsError(outcomes.CRAWL_DELAY, f"{rules.delay} s")
            return rules

    async def _read_rules(self, origin: str, *, agent: str) -> Rules:
        target = origin + robots.PATH
        for _ in range(robots.MAX_REDIRECTS + 1):
            try:
                answer = await self.get(target, cut_at=robots.MAX_BYTES)
            except RequestError as error:
                known = (outcomes.DNS_FAILED, outcomes.CONNECT_FAILED, outcomes.TLS_FAILED, outcomes.PRIVATE_ADDRESS)
                outcome = error.outcome if error.outcome in known else outcomes.ROBOTS_UNREACHABLE
                raise RobotsError(outcome, f"robots.txt: {error}", unreached=evidence_needed(error)) from None
            if answer.status in REDIRECTS:
                location = urls.join(target, answer.header("location"))
                if location is None:
                    return AllowAll()
                target = location
            elif answer.status == 200:
                return ParsedRules(answer.body, agent=agent)
            elif answer.status >= 500 or answer.status == 429:
                seconds = retry_after(answer)
                raise RobotsError(outcomes.ROBOTS_UNREACHABLE, str(answer.status), retry_after=seconds)
            else:
                return AllowAll()
        return AllowAll()  # RFC 9309, 2.3.1.2: more redirects than five may be taken for no file


def retry_after(answer: Answer) -> float | None:
    """The seconds that a server asks us to wait; None where it says nothing that can be understood.

    A date is compared with the server's own clock where it tells us its time.
    """
    value = answer.header("retry-after").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # OverflowError: a day or an hour of twenty digits
        return None
    now = time.time()
    with contextlib.suppress(ValueError, OverflowError):
        now = _timestamp(parsedate_to_datetime(answer.header("date")))
    return max(0.0, _timestamp(until) - now)


def _timestamp(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
