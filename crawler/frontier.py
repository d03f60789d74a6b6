"""All URLs on disk: which there are, which are finished, where their pages are. An SQLite file, memory-bounded.

It is made from the URL lists and brought up to date from the journal, so it may be deleted at any time: nothing is
known here alone. 10 million URLs take about 3 GB of disk and no memory to speak of.
"""

import contextlib
import hashlib
import itertools
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from crawler import outcomes, url_lists, urls
from crawler.journal import Entry, Journal, JournalPosition
from crawler.url_lists import UrlList
from crawler.urls import BlockList
from estimator import format_version
from estimator.corpus.build import marks
from estimator.errors import UserError

BATCH = 1000
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE lists (first INTEGER PRIMARY KEY, path TEXT, name TEXT);
CREATE TABLE urls (
    number INTEGER PRIMARY KEY, -- of the line, over all lists
    key INTEGER,                -- of the cleaned URL
    host TEXT, url TEXT,
    raw TEXT,                   -- as the list spells it, where that differs
    outcome TEXT,               -- NULL until it is finished
    segment INTEGER, offset INTEGER, length INTEGER, -- of a page that is still in the spool
    page INTEGER                -- key of the URL where the redirects ended
);
"""
_INDEXES = """
CREATE INDEX by_key ON urls (key);
CREATE INDEX pending ON urls (host, number) WHERE outcome IS NULL;
CREATE INDEX by_page ON urls (page) WHERE page IS NOT NULL;
"""
# From the lists alone, whatever was fetched under other lists.
_DECIDED = (outcomes.DUPLICATE_URL, outcomes.BLOCKED)


class Pending(NamedTuple):
    """A URL that is not finished."""

    number: int
    url: str


class Finished(NamedTuple):
    """A fetched page that is still in the spool. line: its number in the list, from 0; name: of the list."""

    url: str
    raw: str
    name: str
    line: int
    place: JournalPosition


def key_of(url: str) -> int:
    """63 bits of a digest: two of 10 million URLs share one with a chance of 1 in 100,000."""
    return int.from_bytes(hashlib.sha256(url.encode()).digest()[:8], "big") >> 1


class Frontier:
    """The table of URLs of one output folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = sqlite3.connect(path)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute("PRAGMA cache_size=-65536")
        self._base.execute("PRAGMA temp_store=FILE")

    def close(self, *, whole: bool = False) -> None:
        """whole: notes the checksum with which the next process uses the table instead of making it again."""
        self._base.close()
        if whole and not self._path.with_name(f"{self._path.name}-wal").exists():
            marks.write_mark(str(_mark(self._path)), {}, {self._path.name: marks.sum_of(self._path)})

    def fact(self, name: str) -> str | None:
        row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _set_fact(self, name: str, value: int) -> None:
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --- the journal ---

    def catch_up(self, journal: Journal) -> int:
        """Applies the lines written since the last time, in whole batches; returns the number of damaged lines."""
        damaged, batch, stop = 0, [], 0
        for stop, entry in journal.entries(int(self.fact("applied") or 0)):
            if entry is None:
                damaged += 1
            else:
                batch.append(entry)
            if len(batch) >= 10 * BATCH:
                self._apply(batch, stop)
                batch = []
        if stop:
            self._apply(batch, stop)
        return damaged

    def _apply(self, entries: list[dict], stop: int) -> None:
        with self._base:
            for entry in entries:
                if "assembled" in entry:
                    self._apply_assembled(entry)
                elif "url" in entry:
                    place = entry.get("place") or (None, None, None)
                    page = key_of(entry["final"]) if entry.get("outcome") == outcomes.FETCHED else None
                    self._base.execute(
                        "UPDATE urls SET outcome = ?, segment = ?, offset = ?, length = ?, page = ?"
                        " WHERE key = ? AND url = ? AND (outcome IS NULL OR outcome NOT IN (?, ?))",
                        (entry.get("outcome"), *place, page, key_of(entry["url"]), entry["url"], *_DECIDED),
                    )
            self._set_fact("applied", stop)

    def _apply_assembled(self, entry: dict) -> None:
        self._drop_duplicate_pages()
        self._base.execute("UPDATE urls SET segment = NULL, offset = NULL, length = NULL WHERE segment IS NOT NULL")
        for name, number in entry["assembled"].items():
            self._set_fact("archives of " + name, number)

    def drop_duplicate_pages(self) -> None:
        """Of several URLs that led to one page the first stays, or the one that is in an archive already."""
        with self._base:
            self._drop_duplicate_pages()

    def _drop_duplicate_pages(self) -> None:
        self._base.execute(
            "UPDATE urls SET outcome = ? WHERE outcome = ? AND segment IS NOT NULL AND EXISTS"
            " (SELECT 1 FROM urls other WHERE other.page = urls.page AND other.outcome = urls.outcome"
            "  AND (other.segment IS NULL OR other.number < urls.number) AND other.number != urls.number)",
            (outcomes.DUPLICATE_PAGE, outcomes.FETCHED),
        )

    def retry(self) -> int:
        """Makes pending again what may go better another time; how many these are."""
        marks = ", ".join("?" * len(outcomes.TRANSIENT))
        with self._base:
            return self._base.execute(
                f"UPDATE urls SET outcome = NULL WHERE outcome IN ({marks})", outcomes.TRANSIENT
            ).rowcount

    def missing_entries(self, url: str, *, final: str) -> list[Entry]:
        """The lines that the journal lacks of a page in an archive: its own, and those of others that led to it."""
        marks = ", ".join("?" * len(outcomes.TRANSIENT))  # of an earlier attempt
        query = f"SELECT 1 FROM urls WHERE key = ? AND url = ? AND (outcome IS NULL OR outcome IN ({marks}))"
        if not self._base.execute(query, (key_of(url), url, *outcomes.TRANSIENT)).fetchone():
            return []
        query = "SELECT url FROM urls WHERE page = ? AND outcome = ? AND url != ?"
        others = self._base.execute(query, (key_of(final), outcomes.FETCHED, url)).fetchall()
        duplicates = [{"url": other, "outcome": outcomes.DUPLICATE_PAGE} for (other,) in others]
        return [{"url": url, "outcome": outcomes.FETCHED, "final": final}, *duplicates]

    # --- pending URLs ---

    def hosts(self) -> Iterator[str]:
        """The hosts with pending URLs, those with the most first: they take longest."""
        self._base.execute("DROP TABLE IF EXISTS temp.hosts")
        self._base.execute(
            "CREATE TEMP TABLE hosts AS SELECT host FROM urls WHERE outcome IS NULL GROUP BY host"
            " ORDER BY COUNT(*) DESC, MIN(number)"
        )
        last = 0
        while rows := self._base.execute(
            "SELECT rowid, host FROM temp.hosts WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, BATCH)
        ).fetchall():
            yield from (host for _, host in rows)
            last = rows[-1][0]

    def pending(self, host: str, *, after: int, limit: int) -> list[Pending]:
        """The next URLs of a host that are not finished, in the order of the lists."""
        rows = self._base.execute(
            "SELECT number, url FROM urls WHERE host = ? AND outcome IS NULL AND number > ? ORDER BY number LIMIT ?",
            (host, after, limit),
        )
        return [Pending(*row) for row in rows]

    def is_finished(self) -> bool:
        """Whether nothing is pending."""
        return self._base.execute("SELECT 1 FROM urls WHERE outcome IS NULL LIMIT 1").fetchone() is None

    def counts(self) -> dict[str | None, int]:
        """How many URLs have each outcome; None for those that are not finished."""
        return dict(self._base.execute("SELECT outcome, COUNT(*) FROM urls GROUP BY outcome"))

    # --- finished URLs ---

    def pages(self) -> Iterator[Finished]:
        """The fetched pages that are in no archive yet, in the order of the lists."""
        lists = self._base.execute("SELECT first, name FROM lists ORDER BY first").fetchall()
        at = 0
        rows = self._base.execute(
            "SELECT number, url, raw, segment, offset, length FROM urls"
            " WHERE outcome = ? AND segment IS NOT NULL ORDER BY number",
            (outcomes.FETCHED,),
        )
        for number, url, raw, *place in rows:
            while at + 1 < len(lists) and lists[at + 1][0] <= number:
                at += 1
            yield Finished(url, raw or url, lists[at][1], number - lists[at][0], JournalPosition(*place))

    def fetched(self, *, limit: int) -> Iterator[str]:
        """Some URLs that were fetched, each of another host."""
        rows = self._base.execute(
            "SELECT url, host FROM urls WHERE outcome = ? ORDER BY number LIMIT ?",
            (outcomes.FETCHED, BATCH),
        )
        of_hosts = {host: url for url, host in rows}
        return itertools.islice(of_hosts.values(), limit)

    def archives(self, name: str) -> int:
        """The number of the next archive of this name; 0 before the first."""
        return int(self.fact("archives of " + name) or 0)


def open_frontier(
    path: Path,
    lists: list[UrlList],
    *,
    blocked: BlockList,
    journal: Journal,
    progress: Callable[[int], object] = lambda count: None,
) -> Frontier:
    """The table of these lists, up to date with the journal.

    It is rebuilt where it is missing, was not closed or has changed since (SQLite has no checksums), is of other lists
    or another block list, or knows more than the journal.

    progress: called with the number of lines read so far.
    """
    signature = _signature(lists, blocked)
    mark = _mark(path)
    marks.forget_damaged(mark)
    if mark.exists():
        mark.unlink()  # before the table changes
        frontier = Frontier(path)
        format_version.check({format_version.KEY: int(frontier.fact(format_version.KEY) or 1)}, path)
        if frontier.fact("signature") == signature and int(frontier.fact("applied") or 0) <= journal.size:
            return frontier
        frontier.close()
    _make(path, lists, blocked=blocked, signature=signature, progress=progress)
    return Frontier(path)


@contextlib.contextmanager
def faults_explained(path: Path) -> Iterator[None]:
    """What SQLite says of the table at this path becomes a UserError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise UserError(f"{path}: no space left on the disk; free some and run the same command again") from None
        advice = (
            "move this file elsewhere and run the same command again, which makes it from the lists and the journal"
        )
        is_damaged = "malformed" in str(error) or "not a database" in str(error)
        raise UserError(f"{path}: {error}; {advice if is_damaged else 'run the same command again'}") from None


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _signature(lists: list[UrlList], blocked: BlockList) -> str:
    facts = [(entry.path, entry.name, *url_lists.version(entry.path)) for entry in lists]
    rules = [sorted(blocked.domains), sorted(blocked.extensions)]
    return hashlib.sha256(json.dumps([facts, rules]).encode()).hexdigest()


def _make(
    path: Path, lists: list[UrlList], *, blocked: BlockList, signature: str, progress: Callable[[int], object]
) -> None:
    """Appends all URLs without an index, then sorts: several times faster than keeping an index on the way."""
    temporary = path.with_name(path.name + ".tmp")
    for stale in (temporary, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        stale.unlink(missing_ok=True)
    base = sqlite3.connect(temporary)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "temp_store=FILE"):
        base.execute(f"PRAGMA {pragma}")
    base.executescript(_TABLES)
    first = 0
    for entry in lists:
        base.execute("INSERT INTO lists VALUES (?, ?, ?)", (first, entry.path, entry.name))
        last = -1

        def rows(lines: Iterable[tuple[int, str]], first: int = first) -> Iterator[tuple]:
            nonlocal last
            for last, raw in lines:
                if last % BATCH == 0:
                    progress(first + last)
                yield _row(first + last, raw, blocked)

        base.executemany(
            "INSERT INTO urls (number, key, host, url, raw, outcome) VALUES (?, ?, ?, ?, ?, ?)",
            rows(url_lists.lines(entry.path)),
        )
        if last < 0:
            print(f"{entry.path}: no URL in this list", file=sys.stderr)
        first += last + 1
    base.executescript(_INDEXES.partition(";")[0])
    base.execute(
        "UPDATE urls SET outcome = ? WHERE outcome IS NULL AND EXISTS"
        " (SELECT 1 FROM urls one WHERE one.key = urls.key AND one.url = urls.url AND one.number < urls.number)",
        (outcomes.DUPLICATE_URL,),
    )
    base.executescript(_INDEXES.partition(";")[2])
    facts = {"signature": signature, format_version.KEY: str(format_version.FIRST)}
    base.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
    base.commit()
    base.close()
    os.replace(temporary, path)


def cleaned(raw: str) -> str | None:
    """The URL that a line of a list means; None where it is none."""
    return urls.clean(raw.replace("&amp;", "&"))  # copied from HTML, as no page has a parameter "amp;..."


def _row(number: int, raw: str, blocked: BlockList) -> tuple:
    url = cleaned(raw)
    if url is None:
        return number, None, None, raw[: urls.MAX_LENGTH], None, outcomes.INVALID_URL
    outcome = outcomes.BLOCKED if blocked.blocks(url) else None
    return number, key_of(url), urls.host_of(url), url, raw if raw != url else None, outcome
