"""End-to-end downloads: each page is fetched once and politely, and every listed URL gets the expected outcome."""

import collections
import hashlib
import itertools
import json
import lzma
import os
import re
import sys
import tarfile
from pathlib import Path

import pytest
from helpers.difficult_website import add_difficulties
from helpers.downloading import DELAY, PROGRAM, archives, command, records, run, write_urls
from helpers.website import DATE, Site, main_text

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from crawler import outcomes
from crawler.urls import clean

# --- End-to-end download ---


class Finished:
    """A test site, the output directory of a completed download, and the program's output."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "pages"
        with Site(pages_per_host=100, add=add_difficulties) as site:
            self.site = site
            self.urls_file = write_urls(folder, site.urls)
            self.done = run(*command(self.urls_file, self.out, site))
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
    # If two URLs redirect to the same page, the one listed first is kept.
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
    assert checked > 700


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


def test_each_page_is_asked_for_once_and_robots_files_again_only_as_witnesses_of_the_network(finished: Finished):
    hits = finished.site.hits
    pages = {name: count for name, count in hits.items() if not name.endswith("/robots.txt")}
    repeated = {name: count for name, count in pages.items() if name.startswith("site") and count > 1}
    assert repeated == {}, repeated
    assert hits["closed.test/robots.txt"] <= 2  # once directly, once by redirect from moved-robots.test
    assert hits["error.test/robots.txt"] >= 3  # at least --attempts requests


def test_one_request_at_a_time_to_a_host_and_a_pause_between_two(finished: Finished):
    by_host = collections.defaultdict(list)
    for request in finished.site.requests:
        by_host[request.host].append(request)
    for host, requests in by_host.items():
        requests.sort()
        for one, other in itertools.pairwise(sorted(requests, key=lambda request: request.start)):
            # When the client aborts a request, the server notices slightly later.
            if host.startswith("site") or host == "partly.test":
                pause = 0.2 if host == "partly.test" else DELAY
                assert other.start - one.end >= pause * 0.9 or one.target == "/robots.txt", (host, one, other)
    assert all(count == 1 for host, count in finished.site.most_open.items() if host.startswith("site"))


def test_retry_after_is_kept(finished: Finished):
    times = collections.defaultdict(list)
    for request in finished.site.requests:
        times[request.host + request.target].append(request.start)
    for target in ("moody.test/later/0", "moody.test/later/1"):  # Retry-After in seconds, and as a date
        first, second = times[target]
        assert second - first >= 1.0
    assert len(times["asleep.test/a"]) == 1  # Retry-After is tomorrow, which exceeds --max_wait
    assert len(times["moody.test/always-500"]) == len(times["strict.test/always-429"]) == 3


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
    table = finished.out / "state" / "urls.sqlite"
    data = table.read_bytes()
    at = data.index(b"http://")
    for damaged in (b"no table" * 1000, data[:at] + b"hxtp" + data[at + 4 :], data[: len(data) // 2]):
        table.write_bytes(damaged)
        requests = len(finished.site.requests)
        done = run(*command(finished.urls_file, finished.out, finished.site))
        assert done.returncode == 0, done.stderr
        assert json.loads((finished.out / "report.json").read_text())["counts"] == counts
        assert len(finished.site.requests) == requests


# --- Archive layout and rejected arguments ---


def test_the_archive_layout_is_that_of_jcpeterson(tmp_path: Path):
    with Site(hosts=2, pages_per_host=5) as site:
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
    assert re.search(rf"error: (argument )?{option}[ :]", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_the_text_of_a_page_is_known_to_the_site():
    with Site(hosts=2, pages_per_host=3) as site:
        assert site.text_of(site.urls[0]) in [main_text(number) for number in range(6)]
        assert site.fetched() == site.urls
