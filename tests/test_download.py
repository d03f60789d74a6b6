"""Pages are fetched once, politely, whatever the sites do and however often the program is killed."""

import asyncio
import collections
import datetime
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import random
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import tracemalloc
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from website import DATE, Answer, Site, html, main_text

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from runtime.errors import UserError
from text.web import outcomes, robots, url_lists, urls, warc
from text.web.addresses import PrivateAddressError, ResolveError, Resolver, is_public, parse_override
from text.web.frontier import open_frontier
from text.web.hosts import retry_after
from text.web.journal import Journal, Place, Spool
from text.web.transport import Answer as Said
from text.web.transport import Connection, Limits, RequestError, decompressed, tls_context
from text.web.urls import BlockList, clean

PROGRAM = ROOT / "datasets" / "openwebtext" / "download.py"
DELAY = 0.02
FAST = [
    *("--contact", "tests@example.org", "--fixed_date", "2026-01-01T00:00:00Z", "--respect_noai"),
    *("--delay", str(DELAY), "--backoff", "0.1", "--attempts", "3", "--max_wait", "3", "--max_bytes", "2000000"),
    *("--total_timeout", "1.5", "--read_timeout", "1", "--connect_timeout", "2", "--concurrency", "40"),
]


def command(urls_file: Path, out: Path, site: Site, *more: str) -> list[str]:
    return [sys.executable, str(PROGRAM), str(urls_file), "--out", str(out), *FAST, *site.resolve, *more]


def run(*arguments: str | Path, timeout: float = 60.0) -> subprocess.CompletedProcess:
    return subprocess.run([str(each) for each in arguments], capture_output=True, text=True, timeout=timeout)


def write_urls(folder: Path, lines: list[str], name: str = "urls.txt") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def records(out: Path) -> Iterator[warc.Record]:
    for path in sorted(out.glob("*.warc.gz")):
        with open(path, "rb") as file:
            yield from (record for record in warc.records(file, name=str(path)) if record.kind == "response")


def archives(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name.endswith((".warc.gz", ".xz"))}


# --- a download from end to end ---


class Finished:
    """A site, the folder of its finished download, and what the program said."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "pages"
        with Site() as site:
            self.site = site
            self.urls_file = write_urls(folder, site.urls)
            start = time.monotonic()
            self.done = run(*command(self.urls_file, self.out, site))
            self.seconds = time.monotonic() - start
        self.report = json.loads((self.out / "report.json").read_text()) if not self.done.returncode else {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    done = Finished(tmp_path_factory.mktemp("download"))
    assert done.done.returncode == 0, done.done.stderr
    return done


def test_every_url_ends_as_it_must(finished: Finished):
    journal = [json.loads(line) for line in (finished.out / "state" / "journal.jsonl").read_text().splitlines()]
    became = {entry["url"]: entry["outcome"] for entry in journal if "url" in entry}
    decided_later = {outcomes.DUPLICATE_PAGE}
    wrong = {
        url: (became[url], expected)
        for url, expected in zip(finished.site.urls, finished.site.expected, strict=True)
        if url in became and expected not in decided_later and became[url] != expected
    }
    assert not wrong
    assert finished.report["urls"] == len(finished.site.urls) >= 2000
    expected = collections.Counter(finished.site.expected)
    assert {name: count for name, count in finished.report["counts"].items() if count} == expected
    assert sum(finished.report["counts"].values()) == finished.report["urls"]


def test_every_allowed_page_is_in_the_archives_once_and_in_the_order_of_the_lists(finished: Finished):
    found = [record.source for record in records(finished.out)]
    allowed = [clean(url) for url in finished.site.fetched()]
    # Of two URLs that led to one page the first of the list stays.
    listed = [clean(url) for url in finished.site.urls]
    assert len(set(found)) == len(found) == len(allowed)
    assert [listed.index(url) for url in found] == sorted(listed.index(url) for url in found)
    swapped = set(found) ^ set(allowed)
    assert all(url.endswith(("/abroad", f"elsewhere.test:{finished.site.port}/page")) for url in swapped)


def test_pages_are_as_the_server_sent_them(finished: Finished):
    texts = {clean(url): finished.site.text_of(url) for url in finished.site.fetched() if url in finished.site._texts}
    checked = 0
    for record in records(finished.out):
        if record.source in texts and "utf-8" in record.content_type and "xhtml" not in record.content_type:
            page = record.body.decode()
            assert all(line in page for line in texts[record.source].split("\n")), record.source
            checked += 1
    assert checked > 1000


def test_another_reader_of_warc_understands_the_files(finished: Finished):
    archiveiterator = pytest.importorskip("warcio.archiveiterator", reason="an independent reader")
    ours = list(records(finished.out))
    theirs = []
    for path in sorted(finished.out.glob("*.warc.gz")):
        with open(path, "rb") as file:
            for record in archiveiterator.ArchiveIterator(file, check_digests="raise"):
                if record.rec_type == "response":
                    theirs.append((record.rec_headers, record.http_headers, record.content_stream().read()))
    assert len(ours) == len(theirs)
    for mine, (head, http, body) in zip(ours, theirs, strict=True):
        assert (mine.url, mine.date, mine.body) == (
            head.get_header("WARC-Target-URI"),
            head.get_header("WARC-Date"),
            body,
        )
        assert http.get_statuscode() == str(mine.status) == "200"
        assert http.get_header("Date") == DATE


def test_nothing_forbidden_is_asked_for(finished: Finished):
    asked = {(request.host, request.target) for request in finished.site.requests}
    pages = {(host, target) for host, target in asked if target != "/robots.txt"}
    closed = ("closed.test", "error.test", "patient.test", "moved-robots.test")
    assert not [page for page in pages if page[0] in closed or page[0] in ("127.0.0.1", "localhost", "")]
    assert not [
        page for page in pages if page[0] == "partly.test" and page[1].startswith("/private/") and "open" not in page[1]
    ]
    assert not pages & {("ours.test", "/not-for-us"), ("huge.test", "/no/page"), ("waking.test", "/no")}
    assert all(request.agent == "openwebtext-downloader/1.0 (+tests@example.org)" for request in finished.site.requests)


def test_each_page_is_asked_for_once_and_each_robots_file_too(finished: Finished):
    hits = finished.site.hits
    assert all(count == 1 for name, count in hits.items() if name.startswith("site")), hits.most_common(5)
    assert hits["closed.test/robots.txt"] <= 2  # once for itself, once where moved-robots.test points to
    assert hits["error.test/robots.txt"] == 3  # --attempts


def test_one_request_at_a_time_to_a_host_and_a_pause_between_two(finished: Finished):
    by_host = collections.defaultdict(list)
    for request in finished.site.requests:
        by_host[request.host].append(request)
    for host, requests in by_host.items():
        requests.sort()
        for one, other in itertools.pairwise(sorted(requests, key=lambda request: request.start)):
            # The server sees the end of a request that the client gave up a little later than the client.
            if host.startswith("site") or host == "partly.test":
                pause = 0.2 if host == "partly.test" else DELAY
                assert other.start - one.end >= pause * 0.9 or one.target == "/robots.txt", (host, one, other)
    assert all(count == 1 for host, count in finished.site.most_open.items() if host.startswith("site"))


def test_retry_after_is_kept(finished: Finished):
    times = collections.defaultdict(list)
    for request in finished.site.requests:
        times[request.host + request.target].append(request.start)
    for target in ("moody.test/later/0", "moody.test/later/1"):  # in seconds, and as a date
        first, second = times[target]
        assert second - first >= 1.0
    assert len(times["asleep.test/a"]) == 1  # tomorrow is longer than --max_wait
    assert len(times["moody.test/always-500"]) == len(times["strict.test/always-429"]) == 3


def test_nothing_hangs(finished: Finished):
    assert finished.seconds < 60  # 8 on two idle cores, most of it for hosts that time out again and again


def test_the_same_command_again_does_nothing(finished: Finished):
    before = archives(finished.out)
    requests = len(finished.site.requests)
    done = run(*command(finished.urls_file, finished.out, finished.site))
    assert done.returncode == 0, done.stderr
    assert archives(finished.out) == before
    assert len(finished.site.requests) == requests
    assert "spool" in os.listdir(finished.out / "state")
    assert not os.listdir(finished.out / "state" / "spool")


def test_the_table_of_urls_is_made_again_from_lists_and_journal(finished: Finished):
    counts = json.loads((finished.out / "report.json").read_text())["counts"]
    for path in (finished.out / "state").glob("urls.sqlite*"):
        path.unlink()
    assert run(*command(finished.urls_file, finished.out, finished.site)).returncode == 0
    assert json.loads((finished.out / "report.json").read_text())["counts"] == counts
    (finished.out / "state" / "urls.sqlite").write_bytes(b"no table" * 1000)
    done = run(*command(finished.urls_file, finished.out, finished.site))
    assert done.returncode == 2
    assert "urls.sqlite: file is not a database; delete this file and run the same command again" in done.stderr


# --- killed, stopped, and other accidents ---


def test_killed_twenty_times_the_archives_are_the_same_bytes(tmp_path: Path):
    with Site(hosts=16, pages_per_host=20) as site:
        slow = ("drip", "silent", "nobody-there", "error.test", "strict")  # seconds of waiting, which test nothing here
        listed = [url for url in site.urls if not any(word in url for word in slow)]
        urls_file = write_urls(tmp_path, listed)
        more = ("--file_size", "0.1", "--total_timeout", "5", "--read_timeout", "5")
        undisturbed = run(*command(urls_file, tmp_path / "one", site, *more))
        assert undisturbed.returncode == 0, undisturbed.stderr
        source = random.Random(7)
        killed = 0
        while killed < 20:
            process = subprocess.Popen(
                command(urls_file, tmp_path / "two", site, *more, "--delay", "0.1"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(timeout=source.uniform(0.3, 0.9))
                break  # it was faster than us
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        done = run(*command(urls_file, tmp_path / "two", site, *more))
        assert done.returncode == 0, done.stderr
    assert killed >= 10
    one, two = archives(tmp_path / "one"), archives(tmp_path / "two")
    assert len(one) > 3
    assert one == two
    reports = [json.loads((tmp_path / name / "report.json").read_text())["counts"] for name in ("one", "two")]
    assert reports[0] == reports[1]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    with Site(hosts=3, pages_per_host=4, difficult=False) as site:
        yield site, write_urls(tmp_path, site.urls)


def test_wherever_the_journal_ends_the_result_is_the_same(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    assert run(*command(urls_file, tmp_path / "one", site)).returncode == 0
    whole = (tmp_path / "one" / "state" / "journal.jsonl").read_bytes()
    last = whole.rindex(b"\n", 0, whole.rindex(b'{"assembled"') - 1) + 1
    source = random.Random(0)
    for cut in (last + 10, source.randrange(len(whole)), 1):
        out = tmp_path / f"cut{cut}"
        (out / "state").mkdir(parents=True)
        (out / "state" / "journal.jsonl").write_bytes(whole[:cut])  # of pages that the spool does not have
        done = run(*command(urls_file, out, site))
        assert done.returncode == 0, done.stderr
        assert archives(out) == archives(tmp_path / "one")


def test_a_damaged_page_in_the_spool_is_fetched_again(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    assert run(*command(urls_file, tmp_path / "one", site)).returncode == 0
    out = tmp_path / "two"
    process = subprocess.Popen(
        command(urls_file, out, site, "--delay", "0.5"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    segment = out / "state" / "spool" / "000000.warc.gz"
    while not segment.exists() or segment.stat().st_size < 5000:
        time.sleep(0.02)
    process.kill()
    process.wait()
    data = bytearray(segment.read_bytes())
    data[3000] ^= 0xFF
    segment.write_bytes(data)
    done = run(*command(urls_file, out, site))
    assert done.returncode == 0, done.stderr
    assert "1 pages were lost" in done.stderr
    assert archives(out) == archives(tmp_path / "one")


def test_an_interrupt_stops_cleanly_and_says_how_to_go_on(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(urls_file, out, site, "--delay", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not site.requests:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert json.loads((out / "report.json").read_text())["pending"] > 0
    assert run(*command(urls_file, out, site)).returncode == 0
    assert len(list(records(out))) == 12


FULL_DISK = """
import errno, runpy, sys
sys.path.insert(0, {root!r})
from text.web import journal
written, write_all = [0], journal._write_all
def write(file, data):
    written[0] += len(data)
    if written[0] > {room}:
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")
    write_all(file, data)
journal._write_all = write
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_gives_one_message(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    out = tmp_path / "out"
    for room in (0, 3000, 7000):  # within a page, within a line, ...
        program = FULL_DISK.format(root=str(ROOT), room=room)
        done = run(sys.executable, "-c", program, *command(urls_file, out, site)[1:])
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("error:") == 1
        assert "free some space and run the same command again" in done.stderr
        assert "Traceback" not in done.stderr
    assert run(*command(urls_file, out, site)).returncode == 0
    assert len(list(records(out))) == 12


KILLED_ASSEMBLING = """
import os, runpy, sys
sys.path.insert(0, {root!r})
from text.web import archives, journal
steps = [0]
def killed_before(owner, name, counts=lambda *arguments: True):
    original = getattr(owner, name)
    def replacement(*arguments):
        steps[0] += counts(*arguments)
        if steps[0] == {step}:
            os._exit(9)
        return original(*arguments)
    setattr(owner, name, replacement)
killed_before(archives.Target, "publish")
killed_before(journal.Journal, "append", lambda self, entry: "assembled" in entry)
killed_before(journal.Spool, "remove")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("layout", ["warc", "archive"])
def test_killed_while_the_archives_are_written_they_are_the_same_bytes(
    small: tuple[Site, Path], tmp_path: Path, layout: str
):
    site, urls_file = small
    more = ("--to", layout, "--file_size", "0.012", "--chunk_size", "7")
    assert run(*command(urls_file, tmp_path / "one", site, *more)).returncode == 0
    out = tmp_path / "two"
    for step in range(1, 30):
        program = KILLED_ASSEMBLING.format(root=str(ROOT), step=step)
        done = run(sys.executable, "-c", program, *command(urls_file, out, site, *more)[1:])
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
    assert step > 3
    assert archives(out) == archives(tmp_path / "one")
    assert len(archives(out)) > 1
    assert max(count for name, count in site.hits.items() if "robots" not in name) == 2  # once for each folder


def test_two_downloads_do_not_share_a_folder(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    slow = subprocess.Popen(
        command(urls_file, tmp_path / "out", site, "--delay", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not site.requests:
        time.sleep(0.02)
    done = run(*command(urls_file, tmp_path / "out", site))
    slow.kill()
    slow.wait()
    assert done.returncode == 2
    assert "another download works in this folder" in done.stderr


def test_what_failed_for_now_is_tried_again_on_demand_and_goes_into_another_file(tmp_path: Path):
    with Site(hosts=1, pages_per_host=3, difficult=False) as site:
        site.add("moody.test", "/page", Answer(500), "server_error")
        urls_file = write_urls(tmp_path, site.urls)
        out = tmp_path / "out"
        assert run(*command(urls_file, out, site)).returncode == 0
        first = archives(out)
        site.add("moody.test", "/page", Answer(body=html(9).encode()), None)
        assert run(*command(urls_file, out, site)).returncode == 0
        assert archives(out) == first
        assert run(*command(urls_file, out, site, "--retry")).returncode == 0
        assert len(list(records(out))) == 4
        # More URLs later: what is there is not fetched again.
        site.add("more.test", "/page", Answer(body=html(10).encode()), None)
        urls_file.write_text(site.at("more.test", "/page") + "\n" + urls_file.read_text())
        assert run(*command(urls_file, out, site)).returncode == 0
        assert sorted(archives(out)) == ["pages-00000.warc.gz", "pages-00001.warc.gz", "pages-00002.warc.gz"]
        assert archives(out)["pages-00000.warc.gz"] == first["pages-00000.warc.gz"]
        assert max(count for name, count in site.hits.items() if name.startswith("site")) == 1


def test_a_host_that_stops_answering_is_left_alone(tmp_path: Path):
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    with Site(hosts=1, pages_per_host=2, difficult=False) as site:
        for i in range(12):
            site.add("tired.test", f"/{i}", Answer(behaviour=silent), "host_down")
        more = ("--attempts", "1", "--read_timeout", "0.2")
        done = run(*command(write_urls(tmp_path, site.urls), tmp_path / "out", site, *more))
        assert done.returncode == 0, done.stderr
        counts = json.loads((tmp_path / "out" / "report.json").read_text())["counts"]
        assert (counts["fetched"], counts["timed_out"], counts["host_down"]) == (2, 5, 7)
        assert sum(name.startswith("tired.test/") for name in site.hits) == 6  # with robots.txt


def test_the_bandwidth_is_limited_on_average(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    size = sum(len(_body(site, url)) for url in site.urls)
    assert run(*command(urls_file, tmp_path / "out", site, "--bandwidth", str(size / 2e6))).returncode == 0
    times = [request.start for request in site.requests]
    assert 1.0 < max(times) - min(times) < 4.0  # all of it in two seconds, the last page free


def _body(site: Site, url: str) -> bytes:
    host, _, target = url.removeprefix("http://").partition("/")
    return site.answer(host.partition(":")[0], "/" + target).body


# --- the other place and the other layout ---


def test_archives_can_be_written_into_a_bucket(bucket, small: tuple[Site, Path], tmp_path: Path):
    from runtime import storage

    site, urls_file = small
    assert run(*command(urls_file, tmp_path / "one", site)).returncode == 0
    done = run(*command(urls_file, "gs://bucket/pages", site))
    assert done.returncode == 2
    assert "--state" in done.stderr
    done = run(*command(urls_file, "gs://bucket/pages", site, "--state", str(tmp_path / "state")))
    assert done.returncode == 0, done.stderr
    assert storage.listing("gs://bucket/pages") == [
        "gs://bucket/pages/pages-00000.warc.gz",
        "gs://bucket/pages/report.json",
    ]
    assert (
        storage.read_bytes("gs://bucket/pages/pages-00000.warc.gz") == archives(tmp_path / "one")["pages-00000.warc.gz"]
    )
    assert not os.listdir(tmp_path / "state" / "upload")


def test_the_archive_layout_is_that_of_jcpeterson(tmp_path: Path):
    with Site(hosts=2, pages_per_host=5, difficult=False) as site:
        listed = ["# a comment", *site.urls[:7], "", *(url + "?utm_source=x" for url in site.urls[7:])]
        month = tmp_path / "RS_2017-04.bz2.deduped.txt.xz"
        month.write_bytes(lzma.compress(("\n".join(listed) + "\n").encode()))
        out = tmp_path / "out"
        done = run(*command(month, out, site, "--to", "archive", "--chunk_size", "4"))
        assert done.returncode == 0, done.stderr
        names = [f"RS_2017-04-{n}_{kind}.xz" for n in (1, 2, 3) for kind in ("data", "meta")]
        assert sorted(archives(out)) == names
        seen = []
        for n in (1, 2, 3):
            with (
                tarfile.open(out / f"RS_2017-04-{n}_data.xz") as data,
                tarfile.open(out / f"RS_2017-04-{n}_meta.xz") as meta,
            ):
                for page, facts in zip(data.getmembers(), meta.getmembers(), strict=True):
                    values = json.load(meta.extractfile(facts))
                    number, digest = page.name.removesuffix(".txt").split("-")
                    assert facts.name == f"{number}-{digest}.json"
                    assert listed[int(number)] == values["url"]
                    assert hashlib.md5(values["url"].encode()).hexdigest() == digest
                    text = data.extractfile(page).read().decode("utf-8")
                    url = values["url"].partition("?")[0]
                    assert all(word in text for word in site.text_of(url).split() if word != "library")
                    seen.append(number)
        assert seen == [f"{n:07d}" for n in (*range(1, 8), *range(9, 12))]


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
    halves = (text[:50], text[50:])
    (tmp_path / "l.txt.zst").write_bytes(b"".join(zstandard.ZstdCompressor().compress(half) for half in halves))
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


def test_lists_that_are_not_there_are_named(tmp_path: Path):
    done = run(sys.executable, PROGRAM, tmp_path / "nothing.txt", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "nothing.txt: no such file or folder" in done.stderr
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\0\0")
    done = run(sys.executable, PROGRAM, tmp_path / "picture.txt", "--out", tmp_path / "out")
    assert "picture.txt, line 1: not text" in done.stderr
    done = run(sys.executable, PROGRAM, os.devnull, "--out", tmp_path / "out")
    assert f"{os.devnull}: no URL in these lists" in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--delay", "nan"),
        ("--file_size", "nan"),
        ("--bandwidth", "inf"),
        ("--attempts", "0"),
        ("--fixed_date", "2026-02-30T00:00:00Z"),
    ],
)
def test_numbers_and_dates_that_make_no_sense_are_refused(option: str, value: str, tmp_path: Path):
    done = run(sys.executable, PROGRAM, os.devnull, "--out", tmp_path / "out", option, value)
    assert done.returncode == 2
    assert f"error: {option} " in done.stderr
    assert not (tmp_path / "out").exists()


def test_more_connections_than_the_system_allows_are_refused(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    for hard, concurrency, code in ((400, 40, 0), (400, 100, 2)):
        limited = ["bash", "-c", f'ulimit -Sn 64; ulimit -Hn {hard}; exec "$@"', "bash"]
        more = ("--concurrency", str(concurrency))
        done = run(*limited, *command(urls_file, tmp_path / str(concurrency), site, *more))
        assert done.returncode == code, done.stderr
    assert "needs 456 open files, and the system allows 400; choose at most 72, or allow" in done.stderr


# --- addresses ---


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
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("64:ff9b::a00:1", False),  # NAT64 of 10.0.0.1
    ],
)
def test_private_addresses_are_known_in_every_disguise(address: str, public: bool):
    assert is_public(address) is public


def test_names_are_resolved_within_limits():
    def look_up(host: str, port: int) -> list[str]:
        if host == "hangs":
            time.sleep(1)
        if host == "unknown":
            raise OSError("no such name")
        return ["127.0.0.1", "93.184.216.34"] if host == "mixed" else ["10.0.0.1"]

    async def ask(host: str, **options: object) -> list[str]:
        overrides = [parse_override("*.example:80:192.0.2.7"), parse_override("v6.test:80:[::1]")]
        return await Resolver(overrides=overrides, look_up=look_up, timeout=0.1, **options).addresses(host, 80)

    assert asyncio.run(ask("mixed")) == ["93.184.216.34"]
    assert asyncio.run(ask("a.example")) == ["192.0.2.7"]
    assert asyncio.run(ask("v6.test")) == ["::1"]
    assert asyncio.run(ask("inside", allow_private=True)) == ["10.0.0.1"]
    for host, error in (("inside", PrivateAddressError), ("unknown", ResolveError), ("hangs", TimeoutError)):
        with pytest.raises(error):
            asyncio.run(ask(host))
    with pytest.raises(UserError, match="HOST:PORT:ADDRESS"):
        parse_override("example.com:80")


# --- robots, pauses, bodies, records ---


def test_robots_rules():
    text = b"\xef\xbb\xbfUser-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.php$\nCrawl-delay: 2\n"
    rules = robots.ParsedRules(text, agent="somebody")
    assert [
        rules.allows(f"http://x.example{path}") for path in ("/a", "/a/b", "/x.php", "/x.php?y", "/robots.txt")
    ] == [*(False, True, False, True, True)]
    assert rules.delay == 2.0
    cut = b"User-agent: *\n" + b"#" * robots.MAX_BYTES + b"\nDisallow: /\n"
    assert robots.ParsedRules(cut, agent="somebody").allows("http://x.example/")
    assert robots.ParsedRules(b"\0\xff<html>", agent="somebody").allows("http://x.example/")


@pytest.mark.parametrize(
    ("headers", "body", "refused"),
    [
        ({"x-robots-tag": "noindex, noai"}, "", True),
        ({"x-robots-tag": "otherbot: noai"}, "", False),
        ({"x-robots-tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noarchive"}, "", True),
        ({"tdm-reservation": "1"}, "", True),
        ({}, '<META CONTENT="NOAI, nofollow" NAME="Robots">', True),
        ({}, "<meta name=robots content=noarchive />", True),
        ({}, '<meta name="us" content="noai">', True),
        ({}, '<meta name="robots" content="noindex">', False),
        ({}, '<!-- <meta name="robots" content="noai"> -->', False),
        ({}, "<p>robots noai", False),
        ({}, "<meta name=robots content=noai><![endless[", True),
    ],
)
def test_wishes_of_pages(headers: dict[str, str], body: str, refused: bool):
    assert robots.refuses_ai(headers, body.encode(), agent="us") is refused


def said(*headers: tuple[str, str]) -> Said:
    return Said(503, "", "HTTP/1.1", list(headers), b"", 0)


def test_pauses_that_servers_ask_for():
    assert retry_after(said(("Retry-After", "120"))) == 120
    assert retry_after(said(("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT"), ("Date", DATE))) == 60
    assert retry_after(said(("Retry-After", DATE))) == 0  # in the past
    assert retry_after(said(("Retry-After", "soon"))) is None
    assert retry_after(said()) is None
    assert retry_after(said(("Retry-After", "9" * 50))) > 1e8
    never = "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT"
    assert retry_after(said(("Retry-After", never))) is None
    assert retry_after(said(("Retry-After", DATE), ("Date", never))) == 0


def test_a_bomb_is_unpacked_no_further_than_asked():
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(100)) + packer.flush()

    async def first_megabyte() -> int:
        async def raw():
            yield bomb

        size = 0
        async for piece in decompressed(raw(), "gzip", [0]):
            size += len(piece)
            if size > 1_000_000:
                break
        return size

    tracemalloc.start()
    assert asyncio.run(first_megabyte()) < 1_100_000
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", ""])
def test_bodies_are_unpacked_whatever_the_pieces(encoding: str):
    text = random.Random(0).randbytes(200_000) + b"\0" * 300_000
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text)}.get(encoding, text)

    async def unpack(data: bytes, size: int) -> bytes:
        async def raw():
            for start in range(0, len(data), size):
                yield data[start : start + size]

        return b"".join([piece async for piece in decompressed(raw(), encoding, [0])])

    for size in (1000, 70_001, len(packed)):
        assert asyncio.run(unpack(packed, size)) == text
    if encoding in ("gzip", "deflate"):
        with pytest.raises(RequestError, match="broken"):
            asyncio.run(unpack(packed[:-20], 5000))


def test_records_are_read_back_and_damage_is_named(tmp_path: Path):
    answer = Said(
        200, "OK", "HTTP/2", [("Content-Type", "text/html"), ("Content-Encoding", "gzip")], b"<p>\r\n\r\nx", 5
    )
    members = [
        warc.response(answer, url=f"http://x.example/{i}", source=f"http://l.example/{i}", date="2026-01-01T00:00:00Z")
        for i in range(3)
    ]
    found = list(warc.records(io.BytesIO(b"".join(members)), name="x"))
    assert [record.source for record in found] == [f"http://l.example/{i}" for i in range(3)]
    assert found[1].url == "http://x.example/1"
    assert found[1].body == answer.body
    assert ("X-Crawl-Content-Encoding", "gzip") in found[1].headers
    head = gzip.decompress(members[0]).decode()
    assert f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'http://l.example/0')}>" in head
    assert warc.unpack(members[0][:-1]) is None
    assert warc.unpack(b"") is None
    with pytest.raises(UserError, match=f"ends within the record at byte {len(members[0])}"):
        list(warc.records(io.BytesIO(members[0] + members[1][:-3]), name="x"))


# --- TLS and HTTP/2 ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of right.test, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes a certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "right.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("right.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *encoding))
    return certificate, secret


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_certificates_are_those_of_the_name_and_not_of_the_address(certificate: tuple[Path, Path], protocol: str):
    pytest.importorskip("h2", reason="a server of HTTP/2")
    import h2.config
    import h2.connection
    import h2.events

    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen.append(next(line for line in head.split("\r\n") if line.startswith("Host:")).partition(": ")[2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\n<p>hi")
            await writer.drain()
            return
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        server.initiate_connection()
        writer.write(server.data_to_send())
        while data := await reader.read(65536):
            for event in server.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    seen.append(dict(event.headers)[":authority"])
                    server.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/html")])
                    server.send_data(event.stream_id, b"<p>hi", end_stream=True)
            writer.write(server.data_to_send())
        writer.close()

    async def fetch() -> None:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(*certificate)
        serving.set_alpn_protocols([protocol])
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        resolver = Resolver(overrides=[parse_override(f"*.test:{port}:127.0.0.1")])
        trusting = ssl.create_default_context(cafile=str(certificate[0]))

        def connection(context: ssl.SSLContext) -> Connection:
            return Connection(resolver, agent="us/1.0", limits=Limits(total=5), context=context)

        right = connection(trusting)
        for _ in range(2):
            answer = await right.get(f"https://right.test:{port}/")
            assert answer.body == b"<p>hi"
            assert answer.version == ("HTTP/2" if protocol == "h2" else "HTTP/1.1")
            if protocol != "h2":
                await right.close()
        await right.close()
        for host, context in (("wrong.test", trusting), ("right.test", tls_context())):
            with pytest.raises(RequestError, match="tls_failed"):
                await connection(context).get(f"https://{host}:{port}/")
        assert seen == [f"right.test:{port}"] * 2
        server.close()

    asyncio.run(fetch())


def test_an_address_that_changes_between_the_check_and_the_connection_gains_nothing():
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected = []

    async def fetch() -> None:
        resolver = Resolver(look_up=lambda host, port: answers.pop(0))
        connection = Connection(resolver, agent="us/1.0", limits=Limits(connect=0.2), context=tls_context())

        async def noted(address: str, *rest: object) -> Said:
            connected.append(address)
            raise RequestError(outcomes.CONNECT_FAILED)

        connection._get_from = noted  # type: ignore[method-assign]
        for outcome in ("connect_failed", "private_address"):
            with pytest.raises(RequestError, match=outcome):
                await connection.get("http://rebinding.example/")

    asyncio.run(fetch())
    assert connected == ["93.184.216.34"]


# --- the table and the journal ---


def test_the_journal_takes_off_a_torn_line_and_passes_over_a_damaged_one(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"url":"a"}\n\0\0\0\n{"url":"b"}\n{"url":"c')
    journal = Journal(path)
    journal.append({"url": "d"})
    assert [entry and entry["url"] for _, entry in journal.entries()] == ["a", None, "b", "d"]
    journal.close()
    path.write_bytes(b"x" * 200_000)
    assert Journal(path).size == 0


def test_the_spool_gives_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text.web.journal.SEGMENT_BYTES", 100)
    spool = Spool(tmp_path)
    pages = [bytes([i]) * 60 for i in range(5)]
    places = [spool.append(page) for page in pages]
    assert [place.segment for place in places] == [0, 0, 1, 1, 2]
    again = Spool(tmp_path)  # another process goes on in a file of its own
    assert again.append(b"new").segment == 3
    assert [again.read(place) for place in places] == pages
    assert again.read(Place(9, 0, 5)) == b""
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
from text.web.frontier import open_frontier
from text.web.journal import Journal
from text.web.url_lists import UrlList
from text.web.urls import BlockList
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
    assert (page.url, page.name, page.line, page.place) == ("http://a.example/2", "one", 1, Place(0, 5, 7))


def test_the_parts_of_a_url_are_found():
    assert urls.join("http://x.example/a/b", "../c?d#e") == "http://x.example/c?d"
    assert urls.join("http://x.example/", "mailto:me@x.example") is None
    assert urls.join("http://x.example/", "http://\xc3\xbc.example/\xc3\xa9") == "http://xn--tda.example/%C3%A9"
    assert urls.join("http://x.example/", "/caf\xe9?\xe9") == "http://x.example/caf%E9?%E9"
    assert urls.origin_of("http://x.example:81/a") == "http://x.example:81"
    assert urls.port_of("https://x.example/") == 443


def test_the_text_of_a_page_is_known_to_the_site():
    with Site(hosts=2, pages_per_host=3, difficult=False) as site:
        assert site.text_of(site.urls[0]) in [main_text(number) for number in range(6)]
        assert site.fetched() == site.urls
