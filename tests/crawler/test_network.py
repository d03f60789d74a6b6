"""The downloader waits while the network is down, logs it once, and resumes; unreachable hosts are still detected."""

import asyncio
import collections
import contextlib
import functools
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Container
from pathlib import Path

import pytest
from helpers.downloading import write_urls
from helpers.launching import wait_for
from helpers.website import Site

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from crawler import download, network
from crawler.addresses import Resolver, is_reachable
from crawler.crawl import Effort
from crawler.download import Options
from crawler.hosts import Politeness
from crawler.network import Evidence, Network, evidence_needed
from crawler.transport import Limits, RequestError


def origins(*names: str, scheme: str = "http") -> list[str]:
    return [f"{scheme}://{name}" for name in names]


SAID: list[str] = []


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shortens the pauses of the network check and collects its messages in SAID."""
    for name, seconds in {"FIRST_PAUSE": 0.05, "BLIND_SECONDS": 0.3, "PROBE_SECONDS": 0.02}.items():
        monkeypatch.setattr(network, name, seconds)
    monkeypatch.setattr(network, "_tell", SAID.append)
    SAID.clear()


def probing(reachable: set[str], answering: Container[str] = ()):
    """Returns a probe that can connect to the hosts in `reachable` and gets responses from those in `answering`."""

    async def probe(origin: str, needed: Evidence) -> bool:
        return origin.partition("://")[2] in (reachable if needed is Evidence.CONNECTION else answering)

    return probe


def judged(
    reachable: set[str],
    urls: list[str],
    *,
    references: tuple[str, ...] = (),
    stop=lambda: False,
    answering: Container[str] = (),
    needed: Evidence = Evidence.CONNECTION,
) -> list[bool]:
    """Returns `was_down` for each URL, queried concurrently."""
    SAID.clear()

    async def ask() -> list[bool]:
        state = Network(probing(reachable, answering), references=origins(*references), should_stop=stop)
        asked = (state.was_down(url, since=time.monotonic(), needed=needed) for url in urls)
        return list(await asyncio.gather(*asked))

    return asyncio.run(ask())


GONE = [f"http://gone{i}.test/" for i in range(8)]


def test_hosts_are_gone_where_one_that_answered_before_can_be_reached():
    assert judged({"there.test"}, GONE, references=("there.test", "a.test", "b.test")) == [False] * 8
    assert not SAID


@pytest.mark.parametrize("count", [1, 4, 8])
def test_hosts_that_never_answered_are_waited_for_within_a_limit(count: int):
    assert judged(set(), GONE[:count]) == [False] * count
    assert len(SAID) == 2
    assert SAID[0].endswith(": waiting for the network (Ctrl-C stops, the same command continues later)")
    assert SAID[1].endswith("continuing; --retry tries the unreachable ones again")


def test_an_answer_over_an_old_connection_is_no_evidence():
    """Open connections still respond while DNS is down; this must not count as evidence that the network is up."""
    reachable: set[str] = set()

    async def ask() -> bool:
        state = Network(probing(reachable), references=origins("a.test", "b.test", "c.test"))
        opened_at = time.monotonic()
        asked = asyncio.create_task(
            state.was_down("http://new.test/", since=time.monotonic(), needed=Evidence.CONNECTION)
        )
        for _ in range(20):
            state.answered("http://old.test/", opened_at=opened_at)
            await asyncio.sleep(0.01)
        assert not asked.done()
        reachable.add("b.test")
        return await asked

    assert asyncio.run(ask()) is True
    assert [line.split(" since")[0] for line in SAID[:1]] == ["no host can be reached"]


def test_a_probe_before_the_failure_is_no_evidence():
    """The network fails right after a host is found unreachable; the earlier probe must not count as evidence."""
    reachable = {"a.test", "b.test", "c.test"}

    async def ask() -> list[bool]:
        state = Network(probing(reachable), references=origins("a.test", "b.test", "c.test"))
        first = await state.was_down("http://gone.test/", since=time.monotonic(), needed=Evidence.CONNECTION)
        reachable.clear()
        second = asyncio.create_task(
            state.was_down("http://d.test/", since=time.monotonic(), needed=Evidence.CONNECTION)
        )
        await asyncio.sleep(0.2)
        assert not second.done()
        reachable.add("a.test")
        return [first, await second]

    assert asyncio.run(ask()) == [False, True]


def test_all_who_failed_meanwhile_try_again_when_the_network_is_back():
    reachable: set[str] = set()
    threading.Thread(target=lambda: (wait_for(lambda: SAID), reachable.add("b.test"))).start()
    assert judged(reachable, GONE, references=("a.test", "b.test", "c.test")) == [True] * 8
    assert len(SAID) == 2
    assert SAID[1].startswith("the network is back after ")


def test_a_pause_ends_when_it_is_stopped():
    """Without a stop request the pause would never end, because three hosts have responded before."""
    asked = itertools.count()
    stopped = judged(set(), GONE[:1], references=("a.test", "b.test", "c.test"), stop=lambda: next(asked) > 5)
    assert stopped == [True]


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


class After:
    """Contains every host after the given number of probes, and none before."""

    def __init__(self, probes: int):
        self._left = itertools.repeat(False, probes)

    def __contains__(self, host: str) -> bool:
        return next(self._left, True)


def test_connections_are_no_evidence_where_nothing_answers():
    """Hosts accept connections but never respond, as behind a dead proxy or login page; a response ends the wait."""
    hosts = {"a.test", "b.test", "c.test"}
    answering = After(9)
    silent = judged(hosts, GONE, references=tuple(hosts), answering=answering, needed=Evidence.ANSWER)
    assert silent == [True] * 8
    assert SAID[0].startswith("no host answers since")
    assert judged(hosts, GONE, references=tuple(hosts)) == [False] * 8
    assert judged(hosts, GONE, references=tuple(hosts), answering={"a.test"}, needed=Evidence.ANSWER) == [False] * 8
    assert not SAID


def test_where_nothing_ever_answers_a_pause_ends_when_it_is_stopped():
    asked = itertools.count()
    hosts = ("a.test", "b.test", "c.test")
    stop = lambda: next(asked) > 5  # noqa: E731
    assert judged({*hosts}, GONE[:1], references=hosts, stop=stop, needed=Evidence.ANSWER) == [True]


def test_answers_without_a_certificate_are_no_evidence_where_hosts_with_one_are_known():
    """A captive portal responds in place of every plain HTTP host, so only responses over TLS count as evidence."""

    async def ask() -> list[bool]:
        references = [*origins("a.test", scheme="https"), *origins("b.test", "c.test")]
        answering = {"b.test", "c.test"}
        state = Network(probing(set(), answering), references=references)

        def failed(url: str) -> asyncio.Task[bool]:
            return asyncio.create_task(state.was_down(url, since=time.monotonic(), needed=Evidence.ANSWER))

        first = failed("https://d.test/")
        while not SAID:
            state.answered("http://b.test/login", opened_at=time.monotonic())
            await asyncio.sleep(0)
        assert not first.done()
        answering.add("a.test")
        return [await first, await failed("https://d.test/")]

    assert asyncio.run(ask()) == [True, False]


@pytest.mark.parametrize(
    ("outcome", "silent", "needed"),
    [
        ("dns_failed", False, Evidence.CONNECTION),
        ("connect_failed", False, Evidence.CONNECTION),
        ("connect_failed", True, Evidence.ANSWER),
        ("timed_out", False, Evidence.ANSWER),
        ("broken", False, Evidence.ANSWER),
        ("tls_failed", False, Evidence.ANSWER),
        ("too_large", False, Evidence.NONE),
    ],
)
def test_what_shows_that_a_failure_is_the_hosts(outcome: str, silent: bool, needed: Evidence):
    assert evidence_needed(RequestError(outcome, silent=silent)) is needed


@contextlib.contextmanager
def dead_proxy(port: int):
    """Accepts connections and closes them without a response."""
    with socket.create_server(("127.0.0.3", port)) as server:

        def close_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=close_all)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
@pytest.mark.parametrize("way", ["no name resolves", "all hosts refuse", "connections open and nothing answers"])
def test_a_download_waits_for_the_network_and_loses_nothing(way: str, tmp_path: Path, monkeypatch):
    """The network fails during the crawl for longer than it takes several hosts to run out of attempts."""
    with Site(hosts=12, pages_per_host=15) as site, dead_proxy(site.port):
        down = itertools.count()

        def look_up(host: str, port: int) -> list[str]:
            if len({request.host for request in site.requests}) >= 10 and next(down) < 40:
                if way == "no name resolves":
                    raise OSError("Temporary failure in name resolution")
                return ["127.0.0.3" if way == "connections open and nothing answers" else "127.0.0.2"]
            return ["127.0.0.1"]

        monkeypatch.setattr("crawler.network.LONGEST_PAUSE", 0.1)
        monkeypatch.setattr(download, "Resolver", functools.partial(Resolver, look_up=look_up))
        # Disconnect from each host after a few pages, so that it has to be connected to again.
        monkeypatch.setattr("crawler.crawl.PATIENCE_SECONDS", 0.0)
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
    assert (
        len([line for line in SAID if line.startswith(("no host can be reached since", "no host answers since"))]) == 1
    )
    assert len([line for line in SAID if line.startswith("the network is back")]) == 1
    journal = [json.loads(line) for line in (tmp_path / "out" / "state" / "journal.jsonl").read_text().splitlines()]
    assert {entry["attempts"] for entry in journal if entry.get("outcome") == "fetched"} <= {1, 2}
