"""Fetches all pending URLs: many hosts at a time, each by one worker, one request after another.

A worker never waits long: a host that asks for a pause is put aside with its remaining URLs, and comes back when
its time has come. Memory holds the hosts in work and put aside, never the list of URLs.
"""

import asyncio
import hashlib
import heapq
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from crawler import outcomes, urls, warc
from crawler.fetch_page import PageFetcher, Rules, visit
from crawler.frontier import BATCH, Frontier, Pending
from crawler.hosts import Gate, Hosts
from crawler.journal import Entry, Journal, Spool

# A host that has to pause longer than this gives its worker to another one.
PATIENCE_SECONDS = 1.0
ASIDE_PER_WORKER = 50
READ_AHEAD = 50
# URLs of one host given up in a row, because of the host, after which the rest is not tried.
HOST_DOWN_AFTER = 5
GRACE_SECONDS = 5.0
_NOT_FOR_NOW = frozenset(outcomes.TRANSIENT) - {outcomes.TLS_FAILED}


class Effort(NamedTuple):
    """How hard to try. attempts: of a URL in all; backoff_seconds: the first wait, doubled each time."""

    concurrency: int = 64
    attempts: int = 4
    backoff_seconds: float = 2.0
    max_wait_seconds: float = 300.0


class Progress(NamedTuple):
    """So far in this process."""

    finished: int
    pages: int
    received_bytes: int


class _Job:
    """The remaining work at one host."""

    def __init__(self, host: str, gate: Gate) -> None:
        self.host = host
        self.gate = gate  # kept while the host is put aside: it knows the robots.txt
        self.fresh: deque[Pending] = deque()
        self.last = -1
        self.read_all = False
        self.again: list[tuple[float, int, Pending]] = []  # (when, attempts so far, URL), a heap
        self.refusals: Counter[str] = Counter()  # of robots.txt, by origin
        self.failures = 0
        self.given_up: dict[str, str] = {}  # outcome of all URLs of an origin
        self.resume_at = 0.0


class Crawl:
    """One process's work on a frontier."""

    def __init__(
        self,
        frontier: Frontier,
        journal: Journal,
        spool: Spool,
        *,
        hosts: Hosts,
        rules: Rules,
        effort: Effort,
        fixed_date: str | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._frontier = frontier
        self._journal = journal
        self._spool = spool
        self._hosts = hosts
        self._rules = rules
        self._effort = effort
        self._fixed_date = fixed_date
        self._show = progress
        self.progress = Progress(0, 0, 0)
        self._most_aside = ASIDE_PER_WORKER * effort.concurrency
        self._aside: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._random = random.Random()
        self._stopping = False
        self._unapplied = 0

    async def run(self, *, should_stop: Callable[[], bool]) -> None:
        """Fetches until nothing is pending, or it is stopped.

        Requests in flight when `should_stop` returns true have GRACE_SECONDS to finish. The first fault of a worker
        (such as a full disk) ends all of them and is raised.
        """
        waiting = self._frontier.hosts()
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(self._effort.concurrency)]
        at_work = set(workers)
        deadline = None
        try:
            while at_work:
                done, at_work = await asyncio.wait(at_work, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
                for worker in done:
                    worker.result()
                self._show(self.progress)
                if should_stop() and deadline is None:
                    self._stopping, deadline = True, time.monotonic() + GRACE_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    break
        finally:
            for worker in at_work:
                worker.cancel()
            # Of all of them: several may have met the same fault.
            await asyncio.gather(*workers, return_exceptions=True)
            await self._hosts.close()
        self._spool.sync()
        self._journal.sync()
        self._frontier.catch_up(self._journal)

    async def _work(self, waiting: Iterator[str]) -> None:
        while not self._stopping:
            if self._aside and self._aside[0][0] <= time.monotonic():
                job = heapq.heappop(self._aside)[2]
            elif len(self._aside) < self._most_aside and (host := next(waiting, None)) is not None:
                job = _Job(host, self._hosts.take(host))
            elif self._aside:
                await asyncio.sleep(min(0.5, max(0.0, self._aside[0][0] - time.monotonic())))
                continue
            else:
                return
            await self._visit_host(job)
            if not job.resume_at:
                await self._hosts.give_back(job.host)
            else:
                await job.gate.rest()
                heapq.heappush(self._aside, (job.resume_at, next(self._order), job))

    async def _visit_host(self, job: _Job) -> None:
        """Works on a host until it is finished, or has to pause until job.resume_at."""
        job.resume_at = 0.0
        gate = job.gate
        while not self._stopping:
            now = time.monotonic()
            if gate.free_at > now + PATIENCE_SECONDS:
                job.resume_at = gate.free_at
                return
            if job.again and job.again[0][0] <= now:
                _, attempts, pending = heapq.heappop(job.again)
            elif (pending := self._next(job)) is not None:
                attempts = 0
            elif job.again:
                if job.again[0][0] > now + PATIENCE_SECONDS:
                    job.resume_at = job.again[0][0]
                    return
                await asyncio.sleep(job.again[0][0] - now)
                continue
            else:
                return
            # A verdict that needs no request must not keep the others waiting.
            await asyncio.sleep(0)
            given_up = job.given_up.get(urls.origin_of(pending.url))
            if given_up:
                self._finish(pending, PageFetcher(given_up, pending.url), attempts=attempts)
                continue
            began = time.monotonic()
            result = await visit(pending.url, hosts=self._hosts, rules=self._rules)
            needed = result.unreached
            if needed and await self._hosts.network.was_down(result.url, since=began, needed=needed):
                heapq.heappush(job.again, (time.monotonic(), attempts, pending))  # not an attempt
                continue
            wait = self._judge(job, pending, result, attempts=attempts + 1)
            if wait:
                gate.pause(wait)

    def _next(self, job: _Job) -> Pending | None:
        if not job.fresh and not job.read_all:
            job.fresh.extend(self._frontier.pending(job.host, after=job.last, limit=READ_AHEAD))
            job.read_all = len(job.fresh) < READ_AHEAD
            job.last = job.fresh[-1].number if job.fresh else job.last
        return job.fresh.popleft() if job.fresh else None

    def _judge(self, job: _Job, pending: Pending, result: PageFetcher, *, attempts: int) -> float:
        """Finishes a URL, or puts it back for later; the seconds that its host has to be left alone."""
        origin = urls.origin_of(pending.url)
        at_home = urls.origin_of(result.url) == origin
        if result.by_robots and at_home:
            return self._judge_robots(job, pending, result, origin=origin, attempts=attempts)
        wait = min(self._backoff(attempts, result), self._effort.max_wait_seconds)
        too_long = (result.retry_after or 0.0) > self._effort.max_wait_seconds
        if result.outcome in _NOT_FOR_NOW and attempts < self._effort.attempts and not too_long:
            heapq.heappush(job.again, (time.monotonic() + wait, attempts, pending))
            asks = result.outcome == outcomes.RATE_LIMITED or result.retry_after
            return wait if asks and at_home else 0.0
        job.failures = job.failures + 1 if result.outcome in outcomes.OF_THE_HOST and at_home else 0
        asked_to_go = too_long and at_home and result.outcome in _NOT_FOR_NOW
        if job.failures >= HOST_DOWN_AFTER or asked_to_go:
            job.given_up[origin] = outcomes.HOST_DOWN
        self._finish(pending, result, attempts=attempts)
        return 0.0

    def _backoff(self, attempts: int, result: PageFetcher) -> float:
        wait = self._effort.backoff_seconds * 2 ** (attempts - 1) * self._random.uniform(0.75, 1.25)
        return max(wait, result.retry_after or 0.0)

    def _judge_robots(self, job: _Job, pending: Pending, result: PageFetcher, *, origin: str, attempts: int) -> float:
        """robots.txt speaks for the whole origin, and so does its absence."""
        job.refusals[origin] += 1
        wait = self._backoff(job.refusals[origin], result)
        again = job.refusals[origin] < self._effort.attempts and wait <= self._effort.max_wait_seconds
        if result.outcome in _NOT_FOR_NOW and again:
            # Not an attempt of this URL: it was not asked for.
            heapq.heappush(job.again, (time.monotonic() + wait, attempts - 1, pending))
            return wait
        job.given_up[origin] = result.outcome
        self._finish(pending, result, attempts=attempts)
        return 0.0

    def _finish(self, pending: Pending, result: PageFetcher, *, attempts: int) -> None:
        """The page into the spool, then the line into the journal; nothing in between may wait."""
        date = self._fixed_date or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry: Entry = {"url": pending.url, "outcome": result.outcome, "attempts": attempts, "date": date}
        if result.status:
            entry["status"] = result.status
        if result.received_bytes:
            entry["bytes"] = result.received_bytes
        if result.url != pending.url:
            entry["final"] = result.url
        if result.detail:
            entry["detail"] = result.detail[:200]
        if result.answer is not None:
            record = warc.response(result.answer, url=result.url, source=pending.url, date=date)
            entry["final"] = result.url
            entry["sha256"] = hashlib.sha256(result.answer.body).hexdigest()
            entry["place"] = list(self._spool.append(record))
        self._journal.append(entry)
        finished, pages, received = self.progress
        is_page = result.answer is not None
        self.progress = Progress(finished + 1, pages + is_page, received + result.received_bytes)
        self._unapplied += 1
        if self._unapplied >= BATCH:
            self._frontier.catch_up(self._journal)
            self._unapplied = 0
