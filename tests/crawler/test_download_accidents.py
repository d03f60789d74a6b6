"""Interrupted downloads: a run that is killed, stopped, or corrupted resumes and writes identical output."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from helpers.difficult_website import add_difficulties
from helpers.downloading import archives, command, records, run, write_urls
from helpers.killing import kill_often
from helpers.launching import wait_for
from helpers.website import Answer, Site, html

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from crawler import download
from crawler.journal import Journal
from crawler.urls import BlockList

# --- Kills, stops, and other failures ---


@pytest.mark.slow
def test_killed_twenty_times_the_archives_are_the_same_bytes(tmp_path: Path):
    with Site(pages_per_host=100, add=add_difficulties) as site:
        # Leave out URLs that only add waiting time.
        slow = ("drip", "silent", "nobody-there", "error.test", "strict", "moody", "asleep")
        listed = [url for url in site.urls if not any(word in url for word in slow)]
        assert len(listed) >= 2000
        urls_file = write_urls(tmp_path, listed)
        # Use long timeouts: a timeout on a busy machine would change the outcome.
        more = ("--file_size", "0.1", "--total_timeout", "30", "--read_timeout", "30", "--delay", "0")
        one, two = tmp_path / "one", tmp_path / "two"
        undisturbed = run(*command(urls_file, one, site, *more))
        assert undisturbed.returncode == 0, undisturbed.stderr
        expected, counts = archives(one), json.loads((one / "report.json").read_text())["counts"]
        assert len(expected) > 10
        journal = two / "state" / "journal.jsonl"
        step = (one / "state" / "journal.jsonl").stat().st_size // 60

        def progress() -> tuple[int, int]:
            return (journal.stat().st_size // step if journal.exists() else -1, sum(1 for _ in two.glob("*.warc.gz")))

        def finished() -> None:
            assert archives(two) == expected
            assert json.loads((two / "report.json").read_text())["counts"] == counts

        kill_often(lambda _: command(urls_file, two, site, *more), two, signs=8, progress=progress, finished=finished)
        done = run(*command(urls_file, two, site, *more))
        assert done.returncode == 0, done.stderr
        finished()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    with Site(hosts=3, pages_per_host=4) as site:
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
        (out / "state" / "journal.jsonl").write_bytes(whole[:cut])  # refers to pages that are missing from the spool
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
    wait_for(lambda: segment.exists() and segment.stat().st_size >= 5000)
    process.kill()
    process.wait()
    data = bytearray(segment.read_bytes())
    data[3000] ^= 0xFF
    segment.write_bytes(data)
    done = run(*command(urls_file, out, site))
    assert done.returncode == 0, done.stderr
    assert "lost, as after a power failure, and fetched again: 1 page\n" in done.stderr
    assert archives(out) == archives(tmp_path / "one")


def test_an_interrupt_stops_cleanly_and_says_how_to_go_on(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(urls_file, out, site, "--delay", "60"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: site.requests)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert json.loads((out / "report.json").read_text())["pending"] > 0
    assert run(*command(urls_file, out, site)).returncode == 0
    assert len(list(records(out))) == 12


FULL_DISK = """
import errno, runpy, sys
sys.path.insert(0, {root!r})
from crawler import journal
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
    for room in (0, 3000, 7000):  # disk full within a page, within a line, ...
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
from crawler import archives, journal
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
    assert max(count for name, count in site.hits.items() if "robots" not in name) == 2  # once per output directory


def test_archives_that_were_damaged_before_the_spool_was_removed_are_written_again(
    small: tuple[Site, Path], tmp_path: Path
):
    site, urls_file = small
    more = ("--file_size", "0.012")
    assert run(*command(urls_file, tmp_path / "one", site, *more)).returncode == 0
    out = tmp_path / "two"
    program = KILLED_ASSEMBLING.format(root=str(ROOT), step=len(archives(tmp_path / "one")) + 2)
    assert run(sys.executable, "-c", program, *command(urls_file, out, site, *more)[1:]).returncode == 9
    assert archives(out) == archives(tmp_path / "one")
    first, second, *_ = sorted(out.glob("*.warc.gz"))
    first.unlink()
    data = bytearray(second.read_bytes())
    data[100] ^= 1
    second.write_bytes(data)
    done = run(*command(urls_file, out, site, *more))
    assert done.returncode == 0, done.stderr
    assert "pages-00000.warc.gz, pages-00001.warc.gz: missing or damaged" in done.stderr
    assert archives(out) == archives(tmp_path / "one")
    second.unlink()  # moved away after completion
    assert run(*command(urls_file, out, site, *more)).returncode == 0
    assert not second.exists()
    assert max(count for name, count in site.hits.items() if "robots" not in name) == 2  # once per output directory


def add_spellings_and_redirects(site: Site) -> None:
    site.add("more.test", "/?a=1&amp;b=2", Answer(body=html(90).encode()), None)
    site.add("more.test", "/page", Answer(body=html(91).encode()), None)
    for target in ("/first", "/second"):
        site.add("more.test", target, Answer(status=301, headers=[("Location", "/page")]), None)


@pytest.mark.parametrize("to", ["warc", "archive"])
def test_pages_in_archives_whose_lines_in_the_journal_are_damaged_are_not_fetched_again(to: str, tmp_path: Path):
    with Site(hosts=3, pages_per_host=4, add=add_spellings_and_redirects) as site:
        escaped, first, second = (site.at("more.test", target) for target in ("/?a=1&amp;b=2", "/first", "/second"))
        more = ("--to", to, "--retry")
        urls_file = write_urls(tmp_path, [escaped.replace("&amp;", "&amp;amp;"), first, second, *site.urls])
        out, journal = tmp_path / "out", tmp_path / "out" / "state" / "journal.jsonl"
        assert run(*command(urls_file, out, site, *more)).returncode == 0
        before, report = archives(out), json.loads((out / "report.json").read_text())
        assert report["counts"]["duplicate_page"] == 1
        hits = {name: count for name, count in site.hits.items() if "robots" not in name}
        lines = journal.read_bytes().splitlines(keepends=True)
        known = {line: json.loads(line) for line in lines}
        damaged = [line for line in lines if known[line].get("url") in (escaped, first, *site.urls[:2])]
        damaged += [line for line in lines if "archives" in known[line]]
        lines = [line.replace(b"e", b"E", 3) if line in damaged else line for line in lines]
        timed_out = {"url": site.urls[0], "outcome": "timed_out", "attempts": 3, "date": "2026-01-01T00:00:00Z"}
        lines.insert(0, json.dumps(timed_out).encode() + b"\n")  # an earlier attempt, without the checksum that is new
        journal.write_bytes(b"".join(lines))
        for _ in range(2):
            (out / "state" / "urls.sqlite.json").unlink()  # as a kill does, so that the table is made again
            done = run(*command(urls_file, out, site, *more))
            assert done.returncode == 0, done.stderr
            assert "5 damaged lines; pages that no archive has are fetched again" in done.stderr
            assert archives(out) == before
            assert json.loads((out / "report.json").read_text())["counts"] == report["counts"]
            assert {name: count for name, count in site.hits.items() if "robots" not in name} == hits
    (out / "state" / "urls.sqlite.json").unlink()
    stop = iter([False, True])  # not while the list is read, but while the archives are
    options = SimpleNamespace(inputs=[str(urls_file)], out=str(out))
    with contextlib.closing(Journal(journal)) as opened, pytest.raises(KeyboardInterrupt):
        download._open(options, out / "state", opened, blocked=BlockList(), should_stop=stop.__next__)


def test_two_downloads_do_not_share_a_folder(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    slow = subprocess.Popen(command(urls_file, tmp_path / "out", site, "--delay", "60"), **quietly)
    wait_for(lambda: site.requests)
    done = run(*command(urls_file, tmp_path / "out", site))
    slow.kill()
    slow.wait()
    assert done.returncode == 2
    assert "another download works in this folder" in done.stderr


def test_what_failed_for_now_is_tried_again_on_demand_and_goes_into_another_file(tmp_path: Path):
    with Site(hosts=1, pages_per_host=3) as site:
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
        # Add more URLs: completed pages must not be fetched again.
        site.add("more.test", "/page", Answer(body=html(10).encode()), None)
        urls_file.write_text(site.at("more.test", "/page") + "\n" + urls_file.read_text())
        assert run(*command(urls_file, out, site)).returncode == 0
        assert sorted(archives(out)) == ["pages-00000.warc.gz", "pages-00001.warc.gz", "pages-00002.warc.gz"]
        assert archives(out)["pages-00000.warc.gz"] == first["pages-00000.warc.gz"]
        assert max(count for name, count in site.hits.items() if name.startswith("site")) == 1


def test_a_host_that_stops_answering_is_left_alone(tmp_path: Path):
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    with Site(hosts=1, pages_per_host=2) as site:
        for i in range(12):
            site.add("tired.test", f"/{i}", Answer(behaviour=silent), "host_down")
        more = ("--attempts", "1", "--read_timeout", "1")
        done = run(*command(write_urls(tmp_path, site.urls), tmp_path / "out", site, *more))
        assert done.returncode == 0, done.stderr
        counts = json.loads((tmp_path / "out" / "report.json").read_text())["counts"]
        assert (counts["fetched"], counts["timed_out"], counts["host_down"]) == (2, 5, 7)
        assert sum(name.startswith("tired.test/") for name in site.hits) == 6  # including robots.txt


def test_the_bandwidth_is_limited_on_average(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    size = sum(len(_body(site, url)) for url in site.urls)
    assert run(*command(urls_file, tmp_path / "out", site, "--bandwidth", str(size / 2e6))).returncode == 0
    times = [request.start for request in site.requests]
    assert 1.0 < max(times) - min(times) < 4.0  # two seconds in total, no delay after the last page


def _body(site: Site, url: str) -> bytes:
    host, _, target = url.removeprefix("http://").partition("/")
    return site.answer(host.partition(":")[0], "/" + target).body


# --- Limits and output paths ---


def test_more_connections_than_the_system_allows_are_refused(small: tuple[Site, Path], tmp_path: Path):
    site, urls_file = small
    for hard, concurrency, code in ((400, 40, 0), (400, 100, 2)):
        limited = ["bash", "-c", f'ulimit -Sn 64; ulimit -Hn {hard}; exec "$@"', "bash"]
        more = ("--concurrency", str(concurrency))
        done = run(*limited, *command(urls_file, tmp_path / str(concurrency), site, *more))
        assert done.returncode == code, done.stderr
    assert "needs 456 open files, and the system allows 400; choose at most 72, or allow" in done.stderr


def test_archives_can_be_written_into_a_bucket(bucket, small: tuple[Site, Path], tmp_path: Path):
    from estimator import storage

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
