"""Without a network nothing is given up: the download waits, says so once and goes on; what is gone is found gone."""

import asyncio
import collections
import functools
import json
import threading
import time
from pathlib import Path

import pytest
from downloading import write_urls
from website import Site

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from text.web import download
from text.web.addresses import Resolver, is_reachable
from text.web.crawl import Effort
from text.web.download import Options
from text.web.hosts import Politeness
from text.web.network import Network
from text.web.transport import Limits


def places(*names: str) -> list[tuple[str, int]]:
    return [(name, 80) for name in names]


class Paused(Network):
    """As the program's, with shorter pauses, and it remembers what it said."""

    said: list[str] = []  # noqa: RUF012

    def __init__(self, reach, **more):
        super().__init__(reach, first_pause=0.05, tell=Paused.said.append, **(more | {"blind_seconds": 0.3}))


def judged(reachable: set[str], urls: list[str], *, references: tuple[str, ...] = (), stop=lambda: False) -> list[bool]:
    """was_down of each URL, all asked at once."""
    Paused.said = []

    async def reach(host: str, port: int) -> bool:
        return host in reachable

    async def ask() -> list[bool]:
        state = Paused(reach, references=places(*references), should_stop=stop)
        return list(await asyncio.gather(*(state.was_down(url, since=time.monotonic()) for url in urls)))

    return asyncio.run(ask())


GONE = [f"http://gone{i}.test/" for i in range(8)]


def test_hosts_are_gone_where_one_that_answered_before_can_be_reached():
    assert judged({"there.test"}, GONE, references=("there.test", "a.test", "b.test")) == [False] * 8
    assert not Paused.said


def test_a_few_hosts_that_never_answered_are_gone():
    assert judged(set(), GONE[:4]) == [False] * 4
    assert not Paused.said


def test_many_hosts_that_never_answered_are_waited_for_but_not_for_ever():
    assert judged(set(), GONE) == [False] * 8
    assert len(Paused.said) == 2
    assert Paused.said[0].endswith(": waiting for the network; it goes on by itself")
    assert Paused.said[1].endswith("going on; --retry tries those again that cannot be reached")


def test_all_who_failed_meanwhile_try_again_when_the_network_is_back():
    reachable: set[str] = set()
    threading.Timer(0.6, reachable.add, ["b.test"]).start()
    assert judged(reachable, GONE, references=("a.test", "b.test", "c.test")) == [True] * 8
    assert len(Paused.said) == 2
    assert Paused.said[1].startswith("the network is back after ")


def test_a_pause_ends_when_it_is_stopped():
    began = time.monotonic()
    judged(set(), GONE[:1], references=("a.test", "b.test", "c.test"), stop=lambda: time.monotonic() > began + 0.3)
    assert time.monotonic() < began + 3


def test_a_reachable_host_takes_a_connection():
    async def ask() -> list[bool]:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        names = {"there.test": ["127.0.0.2", "127.0.0.1"], "refuses.test": ["127.0.0.2"]}
        resolver = Resolver(look_up=lambda host, port: names.get(host, []), allow_private=True)
        found = [await is_reachable(host, port, resolver=resolver, timeout=2) for host in (*names, "none.test")]
        server.close()
        return found

    assert asyncio.run(ask()) == [True, False, False]


@pytest.mark.parametrize("way", ["no name resolves", "all hosts refuse"])
def test_a_download_waits_for_the_network_and_loses_nothing(way: str, tmp_path: Path, monkeypatch):
    """The network goes away in the midst of the crawl, for longer than all attempts of a URL take."""
    Paused.said = []
    with Site(hosts=12, pages_per_host=15) as site:
        down: list[float] = []

        def look_up(host: str, port: int) -> list[str]:
            if not down and len(site.requests) > 60:
                down.append(time.monotonic() + 1.5)
            if down and time.monotonic() < down[0]:
                if way == "no name resolves":
                    raise OSError("Temporary failure in name resolution")
                return ["127.0.0.2"]
            return ["127.0.0.1"]

        monkeypatch.setattr(download, "Network", Paused)
        monkeypatch.setattr(download, "Resolver", functools.partial(Resolver, look_up=look_up))
        # Each host is left after a few pages, so that it has to be connected to again.
        monkeypatch.setattr("text.web.crawl.PATIENCE_SECONDS", 0.0)
        gone = [f"http://gone{i}.test:1/" for i in range(3)]
        options = Options(
            inputs=[str(write_urls(tmp_path, site.urls + gone))],
            out=str(tmp_path / "out"),
            state=None,
            to="warc",
            file_bytes=10**9,
            chunk_size=1000,
            retry=False,
            agent="us",
            contact="",
            block=(),
            respect_noai=False,
            max_redirects=3,
            overrides=(),
            allow_private=True,
            fixed_date=None,
            bandwidth=0.0,
            limits=Limits(),
            politeness=Politeness(delay=0.01),
            effort=Effort(concurrency=4, attempts=2, backoff_seconds=0.05),
        )
        report = download.download(options)
    assert report.complete
    assert collections.Counter(report.counts) == {"fetched": 180, "connect_failed": 3}
    assert len([line for line in Paused.said if line.startswith("no host can be reached since")]) == 1
    assert len([line for line in Paused.said if line.startswith("the network is back")]) == 1
    journal = [json.loads(line) for line in (tmp_path / "out" / "state" / "journal.jsonl").read_text().splitlines()]
    assert {entry["attempts"] for entry in journal if entry.get("outcome") == "fetched"} <= {1, 2}
