"""Unit tests of the downloader: URLs, URL lists, addresses, journal, spool, and table."""

import asyncio
import gzip
import json
import lzma
import os
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.downloading import run, write_urls

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from crawler import url_lists, urls
from crawler.addresses import PrivateAddressError, ResolveError, Resolver, is_public, parse_override
from crawler.frontier import open_frontier
from crawler.journal import Journal, JournalPosition, Spool
from crawler.urls import BlockList, clean
from estimator.errors import UserError

# --- URLs and lists ---


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("HTTP://Example.COM:80/a/../b/./c?x=1#part", "http://example.com/b/c?x=1"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("http://example.com./%7euser/%c3%a4?q=%2f", "http://example.com/~user/%C3%A4?q=%2F"),
        ("http://b\u00fccher.example/\u00e4 b", "http://xn--bcher-kva.example/%C3%A4%20b"),
        ("http://example.com/?utm_source=a&id=7&fbclid=b", "http://example.com/?id=7"),
        ("http://example.com/?utm_medium=a", "http://example.com/"),
        ("http://example.com/100%", "http://example.com/100%25"),
        (" http://exa\tmple.com/\n", "http://example.com/"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("//example.com/x", None),
        ("ftp://example.com/", None),
        ("http://user:secret@example.com/", None),
        ("http://exam ple.com/", None),
        ("http://example.com:99999/", None),
        ("http://[::1/", None),
        ("http://-x-.com/", None),
        ("http://example.com/" + "x" * 3000, None),
        ("", None),
    ],
)
def test_a_url_has_one_spelling(written: str, means: str | None):
    assert clean(written) == means
    assert means is None or clean(means) == means


def test_block_lists_hold_for_subdomains_and_ends_of_paths(tmp_path: Path):
    path = tmp_path / "block.txt"
    path.write_text("example.com # spam\n*.ads.example\n.cgi\n\n")
    blocked = BlockList([path])
    assert blocked.blocks("http://example.com/")
    assert blocked.blocks("http://a.b.example.com/")
    assert blocked.blocks("http://x.ads.example/")
    assert blocked.blocks("http://other.example/x.CGI?y")
    assert blocked.blocks("http://other.example/x.mp4")
    assert not blocked.blocks("http://notexample.com/page.html")
    assert not blocked.blocks("http://other.example/example.com")
    path.write_text("not a domain\n")
    with pytest.raises(UserError, match="line 1: 'not a domain'"):
        BlockList([path])


def test_columns_and_ampersands_of_html_in_lists(tmp_path: Path):
    path = tmp_path / "urls.txt"
    path.write_text(
        "http://a.example/1\t12\ta title\n7\tHTTPS://b.example/2\n<http://c.example/?x=1&amp;y=2>\n"
        '"http://d.example/?a=1&copy=2"\nno url\tat all\n'
    )
    journal = Journal(tmp_path / "journal.jsonl")
    lists = url_lists.find([str(path)])
    frontier = open_frontier(tmp_path / "urls.sqlite", lists, blocked=BlockList(), journal=journal)
    found = [pending.url for host in frontier.hosts() for pending in frontier.pending(host, after=-1, limit=9)]
    assert sorted(found) == [
        "http://a.example/1",
        "http://c.example/?x=1&y=2",
        "http://d.example/?a=1&copy=2",
        "https://b.example/2",
    ]
    assert frontier.counts() == {None: 4, "invalid_url": 1}
    frontier.close()
    journal.close()


def test_lists_are_read_whatever_their_compression(tmp_path: Path):
    text = (
        b"\xef\xbb\xbfhttp://a.example/\r\n\n# no\nhttp://b.example/"
        + b"\nx" * 3
        + b"y" * 200_000
        + b"\nhttp://c.example/"
    )
    expected = [0, 3, 4, 5, 6, 7]
    (tmp_path / "l.txt").write_bytes(text)
    (tmp_path / "l.txt.gz").write_bytes(gzip.compress(text))
    (tmp_path / "l.txt.xz").write_bytes(lzma.compress(text))
    zstandard = pytest.importorskip("zstandard", reason="lists in zstd need it")
    size = b"\x50\x2a\x4d\x18\4\0\0\0size"  # as pzstd writes it before each part
    halves = (text[:50], text[50:])
    (tmp_path / "l.txt.zst").write_bytes(b"".join(size + zstandard.compress(half) for half in halves))
    for found in url_lists.find([str(tmp_path)]):
        numbers = [number for number, _ in url_lists.lines(found.path)]
        assert numbers == expected, found
        assert [line for number, line in url_lists.lines(found.path) if number in (0, 7)] == [
            "http://a.example/",
            "http://c.example/",
        ]
    assert len(url_lists.find([str(tmp_path), str(tmp_path / "*.gz")])) == 4
    (tmp_path / "pages").mkdir()
    for name in ("._l.txt", "pages/pages-00000.warc.gz", "pages/l-1_data.xz", "pages/.l-1_meta.xz.tmp"):
        (tmp_path / name).write_bytes(b"no list")
    assert len(url_lists.find([str(tmp_path)])) == 4
    for name in ("l.txt.gz", "l.txt.xz", "l.txt.zst"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-5])
        with pytest.raises(UserError, match=r"damaged|incomplete"):
            list(url_lists.lines(str(tmp_path / name)))


# --- Addresses ---


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::", False),  # 6to4 address of 127.0.0.1
        ("64:ff9b::a00:1", False),  # NAT64 address of 10.0.0.1
    ],
)
def test_private_addresses_are_known_in_every_disguise(address: str, public: bool):
    assert is_public(address) is public


def test_names_are_resolved_within_limits():
    given_up = threading.Event()

    def look_up(host: str, port: int) -> list[str]:
        if host == "hangs":
            given_up.wait()
        if host == "unknown":
            raise OSError("no such name")
        return ["127.0.0.1", "93.184.216.34"] if host == "mixed" else ["10.0.0.1"]

    async def ask(host: str, **options: object) -> list[str]:
        overrides = [parse_override("*.example:80:192.0.2.7"), parse_override("v6.test:80:[::1]")]
        resolver = Resolver(overrides=overrides, look_up=look_up, timeout=0.1 if host == "hangs" else 60, **options)
        try:
            return await resolver.addresses(host, 80)
        finally:
            if host == "hangs":
                given_up.set()

    assert asyncio.run(ask("mixed")) == ["93.184.216.34"]
    assert asyncio.run(ask("a.example")) == ["192.0.2.7"]
    assert asyncio.run(ask("v6.test")) == ["::1"]
    assert asyncio.run(ask("inside", allow_private=True)) == ["10.0.0.1"]
    for host, error in (("inside", PrivateAddressError), ("unknown", ResolveError), ("hangs", TimeoutError)):
        with pytest.raises(error):
            asyncio.run(ask(host))
    with pytest.raises(UserError, match="HOST:PORT:ADDRESS"):
        parse_override("example.com:80")


# --- Table and journal ---


def test_the_journal_takes_off_a_torn_line_and_passes_over_a_damaged_one(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"url":"a"}\n\0\0\0\n{"url":"b"}\n{"url":"c')
    journal = Journal(path)
    journal.append({"url": "d"})
    assert [entry and entry["url"] for _, entry in journal.entries()] == ["a", None, "b", "d"]
    journal.close()
    path.write_bytes(b"x" * 200_000)
    assert Journal(path).size == 0


def test_a_changed_bit_of_a_line_of_the_journal_is_noticed(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    entry = {"url": "a", "outcome": "fetched", "final": "a", "place": [0, 10, 70]}
    for number in range(2):
        journal.append(entry | {"status": 200 + number})
    line = path.read_bytes().splitlines(keepends=True)[0]
    for at in range(len(line) - 1):
        for bit in range(8):
            path.write_bytes(line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :])
            found = [each for _, each in journal.entries() if each is not None]
            # An entry that is still accepted has its original values; at most the case of a hexadecimal escape changed.
            assert found in ([], [entry | {"status": 200}]), (at, bit)
    path.write_bytes(line + line)
    assert journal.last() == (len(line), entry | {"status": 200})
    journal.take_back(len(line))
    assert journal.size == len(line)


PAGE = {"url": "a", "outcome": "fetched", "final": "a", "place": [0, 10, 70]}


@pytest.mark.parametrize(
    ("entry", "whole"),
    [
        (PAGE, True),
        ({"url": "a", "outcome": "not_found", "attempts": 1, "status": 404}, True),
        ({"url": "a", "outcome": None}, True),
        ({"assembled": {"a": 3}}, True),
        ({"url": "a", "outcomf": "not_found"}, False),
        ({"url": "a", "outcome": "fetched"}, False),
        ({"url": 7, "outcome": "not_found"}, False),
        (PAGE | {"place": [0, 10]}, False),
        (PAGE | {"place": [0, 10, "70"]}, False),
        (PAGE | {"place": 7}, False),
        (PAGE | {"final": None}, False),
        ({"assembled": {"a": [3]}}, False),
        ([PAGE], False),
    ],
)
def test_a_line_of_an_earlier_version_counts_where_it_can_be_one(tmp_path: Path, entry: object, whole: bool):
    """Entries of earlier versions, which had no checksums, are accepted if they are well-formed."""
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(entry) + "\n")
    assert [each for _, each in Journal(path).entries()] == [entry if whole else None]


def test_the_spool_gives_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("crawler.journal.SEGMENT_BYTES", 100)
    spool = Spool(tmp_path)
    pages = [bytes([i]) * 60 for i in range(5)]
    places = [spool.append(page) for page in pages]
    assert [place.segment for place in places] == [0, 0, 1, 1, 2]
    again = Spool(tmp_path)  # a second process appends to its own file
    assert again.append(b"new").segment == 3
    assert [again.read(place) for place in places] == pages
    assert again.read(JournalPosition(9, 0, 5)) == b""
    again.remove()
    assert not os.listdir(tmp_path)


def test_many_urls_need_little_memory(tmp_path: Path):
    count = 50_000
    path = tmp_path / "many.txt"
    with open(path, "w") as file:
        file.writelines(f"http://host{i % 1000}.example/page/{i // 2}?utm_source=x\n" for i in range(count))
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from crawler.frontier import open_frontier
from crawler.journal import Journal
from crawler.url_lists import UrlList
from crawler.urls import BlockList
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder = Path({str(tmp_path)!r})
lists = [UrlList({str(path)!r}, "many")]
frontier = open_frontier(folder / "urls.sqlite", lists, blocked=BlockList(), journal=Journal(folder / "j"))
hosts = list(frontier.hosts())
pending = sum(len(frontier.pending(host, after=-1, limit=1000)) for host in hosts)
print(frontier.counts(), len(hosts), pending)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    said, kilobytes = done.stdout.splitlines()
    assert said == f"{{None: {count}}} 1000 {count}"
    assert int(kilobytes) < 80_000


def test_duplicates_of_the_lists_are_found_exactly(tmp_path: Path):
    one = write_urls(tmp_path, ["http://a.example/1", "http://a.example/2", "http://A.example/1#x"], "one.txt")
    two = write_urls(tmp_path, ["http://a.example/2", "http://b.example/x.pdf", "nonsense"], "two.txt")
    journal = Journal(tmp_path / "journal.jsonl")
    lists = url_lists.find([str(one), str(two)])
    frontier = open_frontier(tmp_path / "urls.sqlite", lists, blocked=BlockList(), journal=journal)
    assert frontier.counts() == {None: 2, "duplicate_url": 2, "blocked": 1, "invalid_url": 1}
    assert [pending.url for pending in frontier.pending("a.example", after=-1, limit=9)] == [
        "http://a.example/1",
        "http://a.example/2",
    ]
    journal.append({"url": "http://a.example/2", "outcome": "fetched", "final": "http://c/", "place": [0, 5, 7]})
    frontier.catch_up(journal)
    (page,) = frontier.pages()
    assert (page.url, page.name, page.line, page.place) == ("http://a.example/2", "one", 1, JournalPosition(0, 5, 7))


def test_the_parts_of_a_url_are_found():
    assert urls.join("http://x.example/a/b", "../c?d#e") == "http://x.example/c?d"
    assert urls.join("http://x.example/", "mailto:me@x.example") is None
    assert urls.join("http://x.example/", "http://\xc3\xbc.example/\xc3\xa9") == "http://xn--tda.example/%C3%A9"
    assert urls.join("http://x.example/", "/caf\xe9?\xe9") == "http://x.example/caf%E9?%E9"
    assert urls.origin_of("http://x.example:81/a") == "http://x.example:81"
    assert urls.port_of("https://x.example/") == 443
