"""A download from the first look at the lists to the report: what datasets/openwebtext/download.py does.

State (journal, table of URLs, spool) lies in a folder that only one process uses at a time. Archives are assembled when
nothing is pending, and only then does the spool go away.
"""

import asyncio
import contextlib
import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from runtime import open_files, storage
from runtime.errors import UserError
from text.web import archives, transport, url_lists, urls
from text.web.addresses import Override, Resolver, is_reachable
from text.web.crawl import Crawl, Effort, Progress
from text.web.frontier import Frontier, faults_explained, open_frontier
from text.web.hosts import Hosts, Politeness
from text.web.journal import Journal, Spool
from text.web.network import REFERENCES, Network
from text.web.progress import ProgressBar
from text.web.report import Report
from text.web.transport import Bandwidth, Connection, Limits
from text.web.urls import BlockList
from text.web.visit import Rules

# For the table, the spool, and names that are looked up.
FILES_BESIDES = 256


class _Stopped(Exception):
    """The person wants to go on another time."""


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
    """What may stand in a header's comment."""
    return "".join(char for char in text if char.isascii() and char.isprintable() and char not in "()")


def download(options: Options, *, should_stop: Callable[[], bool] = lambda: False) -> Report:
    """Fetches all URLs of the lists, writes the archives and report.json; a report with pending URLs where it stopped.

    Raises UserError, and OSError where the disk is full.
    """
    transport.import_httpx()
    _allow_connections(options.effort.concurrency)
    state = _state_folder(options)
    start = time.monotonic()
    blocked = BlockList(options.block)
    with _only_one(state), faults_explained(state / "urls.sqlite"), contextlib.ExitStack() as stack:
        journal = stack.enter_context(contextlib.closing(Journal(state / "journal.jsonl")))
        spool = stack.enter_context(contextlib.closing(Spool(state / "spool")))
        frontier = _open(options, state, journal, blocked=blocked, should_stop=should_stop)
        stack.callback(frontier.close)
        if not frontier.counts():
            raise UserError(f"{', '.join(options.inputs)}: no URL in these lists; give files with one URL a line")
        if options.retry:
            print(f"{frontier.retry():,} URLs are tried again", file=sys.stderr)
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
    return report


def _allow_connections(concurrency: int) -> None:
    """Without them hosts would seem not to answer."""
    needed = 2 * concurrency + FILES_BESIDES  # a redirect may lead to a second host
    allowed = open_files.allow(needed)
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


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    with open(state / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{state}: another download works in this folder; wait for it or choose another --out"
            ) from None
        yield


def _open(
    options: Options, state: Path, journal: Journal, *, blocked: BlockList, should_stop: Callable[[], bool]
) -> Frontier:
    path = state / "urls.sqlite"
    lists = url_lists.find(options.inputs)
    with tqdm(unit=" URLs", unit_scale=True, desc="lists", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)
            if should_stop():  # nothing is begun yet that could be said to go on
                raise KeyboardInterrupt

        frontier = open_frontier(path, lists, blocked=blocked, journal=journal, progress=show)
    damaged = frontier.catch_up(journal)
    if damaged:
        print(f"{journal.path}: {damaged} damaged lines; their URLs are fetched again", file=sys.stderr)
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
    """Fetches what is pending, or a part of it; how much that was."""
    counts = frontier.counts()
    pending = counts.get(None, 0)
    total = sum(counts.values())
    print(f"{total:,} URLs, {pending:,} to fetch, as {options.user_agent}", file=sys.stderr)
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
    reach = partial(is_reachable, resolver=resolver, timeout=options.limits.dns + options.limits.connect)
    references = [(urls.host_of(url), urls.port_of(url)) for url in frontier.fetched(limit=REFERENCES)]
    network = Network(reach, references=references, should_stop=should_stop)
    bandwidth = Bandwidth(options.bandwidth)
    return Hosts(connection, politeness=options.politeness, bandwidth=bandwidth, network=network)


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
        print(f"{len(lost):,} pages were lost, as after a power failure; they are fetched again", file=sys.stderr)


def _assemble(
    options: Options,
    state: Path,
    frontier: Frontier,
    journal: Journal,
    spool: Spool,
    *,
    should_stop: Callable[[], bool],
) -> list[str]:
    """Writes the archives, then the line that says so, then gives the spool's space back; the names of the archives.

    Stopped or killed on the way it begins anew, and writes the same names and bytes.
    """
    target = archives.Target(options.out, scratch=state / "upload")
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
        journal.append({"assembled": archives.following_numbers(files)})
        journal.sync()
        frontier.catch_up(journal)
    spool.remove()
    return files
