"""A download from the first look at the lists to the report: what datasets/openwebtext/download.py does.

State (journal, table of URLs, spool) is in a folder that only one process uses at a time. Archives are assembled when
nothing is pending, and only then does the spool go away.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from crawler import archives, outcomes, transport, url_lists, urls
from crawler.addresses import Override, Resolver, is_reachable
from crawler.crawl import Crawl, Effort, Progress
from crawler.fetch_page import Rules
from crawler.frontier import Frontier, faults_explained, open_frontier
from crawler.hosts import Hosts, Politeness
from crawler.journal import Journal, Spool
from crawler.network import REFERENCES, Evidence, Network
from crawler.transport import Bandwidth, Connection, Limits
from crawler.urls import BlockList
from estimator import storage
from estimator.corpus.build.marks import Sum
from estimator.errors import UserError
from estimator.quantities import numbered, size
from estimator.storage import fd_limit, locks

# For the table, the spool, and names that are looked up.
FILES_BESIDES = 256
LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


class _Stopped(Exception):
    """The user stopped the download."""


class Options(NamedTuple):
    """What the command line says; see its --help."""

    inputs: Sequence[str]
    out: str
    state: str | None
    to: str
    file_bytes: int
    chunk_size: int
    retry: bool
    agent: str
    contact: str
    block: Sequence[str]
    respect_noai: bool
    max_redirects: int
    overrides: Sequence[Override]
    allow_private: bool
    fixed_date: str | None
    bandwidth: float
    limits: Limits
    politeness: Politeness
    effort: Effort

    @property
    def user_agent(self) -> str:
        """What every request says of us: the name that robots.txt files use, and how to reach the person behind it."""
        contact = _printable(self.contact)
        return f"{self.agent}/1.0 (+{contact})" if contact else f"{self.agent}/1.0"


def _printable(text: str) -> str:
    """The characters that are allowed in a header's comment."""
    return "".join(char for char in text if char.isascii() and char.isprintable() and char not in "()")


class Report(NamedTuple):
    """counts: URLs of each outcome, all of them together; the rest of this process. files: archives of this process.

    complete: nothing is pending and the archives hold every page.
    """

    counts: Mapping[str | None, int]
    progress: Progress
    seconds: float
    files: list[str]
    complete: bool

    @property
    def urls(self) -> int:
        return sum(self.counts.values())

    @property
    def pages_per_second(self) -> float:
        return self.progress.pages / self.seconds if self.seconds else 0.0

    def json(self) -> str:
        """As the file report.json holds it; the counts add up to `urls`."""
        values = {
            "urls": self.urls,
            "counts": {name: self.counts.get(name, 0) for name in outcomes.DESCRIPTIONS},
            "complete": self.complete,
            "pending": self.counts.get(None, 0),
            "this_run": {
                "urls": self.progress.finished,
                "pages": self.progress.pages,
                "received_bytes": self.progress.received_bytes,
                "seconds": round(self.seconds, 1),
                "pages_per_second": round(self.pages_per_second, 2),
                "files": self.files,
            },
        }
        return json.dumps(values, indent=2) + "\n"

    def lines(self) -> list[str]:
        """As a person reads it."""
        shown = [f"{'URLs':<22}{self.urls:>12,}"]
        for name, meaning in outcomes.DESCRIPTIONS.items():
            if self.counts.get(name):
                shown.append(f"  {name:<20}{self.counts[name]:>12,}  {meaning}")
        if self.counts.get(None):
            shown.append(f"  {'not finished':<20}{self.counts[None]:>12,}")
        received = size(self.progress.received_bytes)
        shown.append(
            f"this run: {numbered(self.progress.pages, 'page')}, {received} in {self.seconds:,.1f} s,"
            f" {self.pages_per_second:,.1f} pages/s"
        )
        if self.files:
            ends = self.files if len(self.files) < 4 else [self.files[0], "...", self.files[-1]]
            shown.append(f"written: {numbered(len(self.files), 'file')}: {', '.join(ends)}")
        return shown


def download(options: Options, *, should_stop: Callable[[], bool] = lambda: False) -> Report:
    """Fetches all URLs of the lists, writes the archives and report.json; a report with pending URLs where it stopped.

    Raises UserError, and OSError where the disk is full.
    """
    transport.import_httpx()
    _allow_connections(options.effort.concurrency)
    state = _state_folder(options)
    start = time.monotonic()
    blocked = BlockList(options.block)
    lock = locks.exclusive(
        state / "lock", f"{state}: another download works in this folder; wait for it or choose another --out"
    )
    with lock, faults_explained(state / "urls.sqlite"), contextlib.ExitStack() as stack:
        journal = stack.enter_context(contextlib.closing(Journal(state / "journal.jsonl")))
        spool = stack.enter_context(contextlib.closing(Spool(state / "spool")))
        _take_back_damaged(options, state, journal, spool)
        frontier = _open(options, state, journal, blocked=blocked, should_stop=should_stop)
        stack.callback(frontier.close)
        if not frontier.counts():
            raise UserError(f"{', '.join(options.inputs)}: no URL in these lists; give files with one URL a line")
        if options.retry:
            print(f"to be tried again: {numbered(frontier.retry(), 'URL')}", file=sys.stderr)
        progress, files, complete = Progress(0, 0, 0), [], False
        with contextlib.suppress(_Stopped):
            checked = False
            while not (checked and frontier.is_finished()):
                if not frontier.is_finished():
                    fetched = _crawl(options, frontier, journal, spool, blocked=blocked, should_stop=should_stop)
                    progress = Progress(*(one + other for one, other in zip(progress, fetched, strict=True)))
                if not frontier.is_finished():
                    raise _Stopped
                frontier.drop_duplicate_pages()
                _check(frontier, journal, spool, should_stop=should_stop)
                checked = True
            files = _assemble(options, state, frontier, journal, spool, should_stop=should_stop)
            complete = True
        report = Report(frontier.counts(), progress, time.monotonic() - start, files, complete)
        storage.write_bytes_atomic(storage.join(options.out, "report.json"), report.json().encode())
        if complete:
            spool.remove()  # last, because archives can be written again as long as it is here
            _note_removed(journal)
        frontier.close(whole=True)
    return report


def _allow_connections(concurrency: int) -> None:
    """Without them hosts would seem not to answer."""
    needed = 2 * concurrency + FILES_BESIDES  # a redirect may lead to a second host
    allowed = fd_limit.allow(needed)
    if allowed < needed:
        raise UserError(
            f"--concurrency {concurrency} needs {needed:,} open files, and the system allows {allowed:,}; "
            f"choose at most {max(1, (allowed - FILES_BESIDES) // 2):,}, or allow more with ulimit -n"
        )


def _state_folder(options: Options) -> Path:
    if storage.is_remote(options.out) and not options.state:
        raise UserError(
            f"--out {options.out}: name a local folder for the journal and the unfinished pages with --state"
        )
    state = Path(options.state or Path(options.out) / "state")
    state.mkdir(parents=True, exist_ok=True)
    return state


def _open(
    options: Options, state: Path, journal: Journal, *, blocked: BlockList, should_stop: Callable[[], bool]
) -> Frontier:
    path = state / "urls.sqlite"
    lists = url_lists.find(options.inputs)
    with tqdm(unit=" URLs", unit_scale=True, desc="lists", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)
            if should_stop():  # nothing has begun that could continue later
                raise KeyboardInterrupt

        frontier = open_frontier(path, lists, blocked=blocked, journal=journal, progress=show)
    damaged = frontier.catch_up(journal)
    if damaged:
        lines = numbered(damaged, "damaged line")
        print(f"{journal.path}: {lines}; pages that no archive has are fetched again", file=sys.stderr)
        for url, final in archives.pages_in(options.out, following=frontier.archives):
            if should_stop():
                raise KeyboardInterrupt
            for entry in frontier.missing_entries(url, final=final):
                journal.append(entry)
        frontier.catch_up(journal)
    return frontier


def _crawl(
    options: Options,
    frontier: Frontier,
    journal: Journal,
    spool: Spool,
    *,
    blocked: BlockList,
    should_stop: Callable[[], bool],
) -> Progress:
    """Fetches pending URLs, or a part of them; returns their number."""
    counts = frontier.counts()
    pending = counts.get(None, 0)
    total = sum(counts.values())
    print(f"{numbered(total, 'URL')}, {pending:,} to fetch, as {options.user_agent}", file=sys.stderr)
    show = ProgressBar(total=total, done=total - pending)
    with contextlib.closing(show):
        crawl = Crawl(
            frontier,
            journal,
            spool,
            hosts=_hosts(options, frontier, should_stop=should_stop),
            rules=Rules(options.agent, blocked, options.max_redirects, options.respect_noai),
            effort=options.effort,
            fixed_date=options.fixed_date,
            progress=show,
        )
        asyncio.run(crawl.run(should_stop=should_stop))
    return crawl.progress


def _hosts(options: Options, frontier: Frontier, *, should_stop: Callable[[], bool]) -> Hosts:
    resolver = Resolver(overrides=options.overrides, allow_private=options.allow_private, timeout=options.limits.dns)
    connection = partial(
        Connection, resolver, agent=options.user_agent, limits=options.limits, context=transport.tls_context()
    )
    limits = options.limits

    async def probe(origin: str, needed: Evidence) -> bool:
        if needed is Evidence.CONNECTION:
            place = urls.host_of(origin), urls.port_of(origin)
            return await is_reachable(*place, resolver=resolver, timeout=limits.dns + limits.connect)
        with contextlib.suppress(TimeoutError):  # also of a host that has asked for a long pause
            async with asyncio.timeout(limits.total + options.politeness.delay):
                return await hosts.answers(origin)
        return False

    references = [urls.origin_of(url) for url in frontier.fetched(limit=REFERENCES)]
    network = Network(probe, references=references, should_stop=should_stop)
    bandwidth = Bandwidth(options.bandwidth)
    hosts = Hosts(connection, politeness=options.politeness, bandwidth=bandwidth, network=network)
    return hosts


def _check(frontier: Frontier, journal: Journal, spool: Spool, *, should_stop: Callable[[], bool]) -> None:
    """Reads every page of the spool; those that cannot be read are pending again."""
    with tqdm(unit="B", unit_scale=True, desc="checking", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(size: int) -> None:
            bar.update(size)
            if should_stop():
                raise _Stopped

        lost = archives.lost_pages(frontier.pages(), spool, progress=show)
    for url in lost:
        journal.append({"url": url, "outcome": None})
    if lost:
        frontier.catch_up(journal)
        print(f"lost, as after a power failure, and fetched again: {numbered(len(lost), 'page')}", file=sys.stderr)


def _target(options: Options, state: Path) -> archives.Target:
    return archives.Target(options.out, scratch=state / "upload")


def _take_back_damaged(options: Options, state: Path, journal: Journal, spool: Spool) -> None:
    """Takes back the line of the last archives, if one was damaged while their pages were still in the spool."""
    start, entry = journal.last()
    if "archives" not in entry:
        return
    if not spool.has_pages:
        _note_removed(journal)  # a kill came before
        return
    target = _target(options, state)
    lost = [name for name, values in entry["archives"].items() if not target.has(name, Sum(*values))]
    if lost:
        journal.take_back(start)
        print(f"{', '.join(lost)}: missing or damaged; the last archives are written again", file=sys.stderr)


def _note_removed(journal: Journal) -> None:
    """Writes that the spool is gone, if archives were just made; they may be moved elsewhere from now on.

    With their numbers once more: with one line alone, its damage would have all pages fetched and archives overwritten.
    """
    entry = journal.last()[1]
    if "archives" in entry:
        journal.append({"spool": "removed", "assembled": entry["assembled"]})


def _assemble(
    options: Options,
    state: Path,
    frontier: Frontier,
    journal: Journal,
    spool: Spool,
    *,
    should_stop: Callable[[], bool],
) -> list[str]:
    """Writes the archives, then the line that says so; the names of the archives.

    If stopped or killed, the next call starts over and writes the same names and bytes.
    """
    target = _target(options, state)
    pages = frontier.pages()
    if options.to == "warc":
        information = [("software", f"{options.agent}/1.0"), ("format", "WARC File Format 1.0"), ("robots", "classic")]
        size = options.file_bytes
        first = frontier.archives(archives.WARC_NAME)
        made = archives.write_warcs(pages, spool, target, first=first, file_bytes=size, information=information)
    else:
        made = archives.write_tars(pages, spool, target, first=frontier.archives, chunk_size=options.chunk_size)
    with tqdm(unit=" files", desc="archives", disable=not sys.stderr.isatty(), leave=False) as bar:
        files = []
        for name in made:
            files.append(name)
            bar.update()
            if should_stop():
                raise _Stopped
    if files:
        journal.append({"assembled": archives.following_numbers(files), "archives": target.sums})
        journal.sync()
        frontier.catch_up(journal)
    return files


class ProgressBar:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, total: int, done: int) -> None:
        self._total = total
        self._before = done
        self._start = self._said = time.monotonic()
        self._bar = tqdm(
            total=total, initial=done, unit=" URLs", desc="downloading", disable=not sys.stderr.isatty(), smoothing=0.05
        )

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        rate = progress.pages / max(now - self._start, 1e-9)
        if not self._bar.disable:
            self._bar.update(self._before + progress.finished - self._bar.n)
            self._bar.set_postfix_str(f"{rate:.1f} pages/s, {size(progress.received_bytes)}", refresh=False)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            done = self._before + progress.finished
            left = (self._total - done) * (now - self._start) / max(progress.finished, 1)
            print(
                f"{done:,} of {self._total:,} URLs, {numbered(progress.pages, 'page')}, {rate:.1f} pages/s,"
                f" about {_duration(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
