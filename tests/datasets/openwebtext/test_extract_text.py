"""extract_text.py: consistent counts, isolated failures, and identical output after interruptions."""

import contextlib
import errno
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.killing import kill_often, names
from helpers.web_archives import html, text, write_tar, write_warc

from crawler import extract_job
from crawler.extract_job import ExtractJob, ExtractSettings
from crawler.pages import pages, units
from estimator import storage
from estimator.corpus.build import marks
from estimator.corpus.build.executors import Executor
from estimator.errors import UserError
from estimator.storage import locks

pytest.importorskip("trafilatura", reason="extracts text")
pytest.importorskip("py3langid", reason="identifies languages")

PROGRAM = ROOT / "datasets" / "openwebtext" / "extract_text.py"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(PROGRAM), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


def documents(folder: Path) -> dict[str, list[dict]]:
    return {
        path.name: [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in sorted(folder.glob("*.jsonl.gz"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with two WARC files, a tar file, and a corrupt file, whose pages cover every outcome."""
    folder = tmp_path_factory.mktemp("archives")
    german = "Der Fluss war breit und langsam, und das alte Dorf lag schon immer an seinem Ufer. " * 12
    first = [html(number) for number in range(6)]
    first += [html(0), html(20, german), html(21, "Too short."), (html(22), "404 Not Found", "text/html")]
    nearly = text(1).replace("wants", "WANTS", 1) + " One more sentence stands at the end."
    second = [html(number) for number in range(6, 10)] + [html(23, nearly), (b"GIF89a", "200 OK", "image/gif"), b""]
    write_warc(folder / "a.warc.gz", first)
    write_warc(folder / "b.warc.gz", second)
    whole = write_warc(folder / "c.warc.gz", [html(number) for number in range(10, 13)]).read_bytes()
    (folder / "c.warc.gz").write_bytes(whole[:-100])
    write_tar(folder / "d_data.xz", {f"{number:07d}-x.txt": html(number) for number in (13, 14)})
    return folder


@pytest.fixture(scope="module")
def undisturbed(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(archives, "--out", out, "--language", "en", "--near_duplicates", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stdout
    return out


def test_every_page_is_counted_once_and_damage_is_named(undisturbed: Path):
    report = json.loads((undisturbed / "report.json").read_text())
    assert report["total"] == {
        "pages": 21,
        "documents": 14,
        "empty": 1,
        "exact_duplicate": 1,
        "http_status": 1,
        "language": 1,
        "near_duplicate": 1,
        "not_a_page": 1,
        "too_short": 1,
    }
    for counts in [report["total"], *report["files"].values()]:
        assert counts["pages"] == sum(counts.values()) - counts["pages"]
    [damaged] = report["damaged"]
    assert damaged["file"].endswith("c.warc.gz")
    assert "http://site.test/2" in damaged["cause"]


def test_documents_have_their_text_and_facts(undisturbed: Path):
    found = documents(undisturbed)
    assert {name: len(each) for name, each in found.items()} == {
        "a.jsonl.gz": 6,
        "b.jsonl.gz": 4,
        "c.jsonl.gz": 2,
        "d.jsonl.gz": 2,
    }
    first = found["a.jsonl.gz"][0]
    assert first["text"].removeprefix("Page 0\n") == text(0)
    assert (first["url"], first["language"], first["title"]) == ("http://site.test/0", "en", "Page 0")
    assert first["fetched"] == "2026-01-02T03:04:05"
    assert [each["id"] for each in found["d.jsonl.gz"]] == ["0000013-x", "0000014-x"]
    assert not (undisturbed / ".parts").exists()


def test_workers_change_nothing(archives: Path, undisturbed: Path, tmp_path: Path, monkeypatch):
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = run(archives, "--out", tmp_path / "out", "--language", "en", "--near_duplicates", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)
    assert list(temporary.iterdir()) == []


def test_unfinished_files_of_a_killed_process_are_removed(archives: Path, undisturbed: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("report.json", "a.jsonl.gz"):
        (out / f"{name}.0123abcd.tmp").write_bytes(b"half")
    done = run(archives, "--out", out, "--language", "en", "--near_duplicates", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(undisturbed)


@pytest.mark.slow
def test_killed_twenty_times_the_documents_are_the_same(tmp_path: Path):
    folder, one, two = tmp_path / "archives", tmp_path / "one", tmp_path / "two"
    folder.mkdir()
    for archive in range(12):  # each archive is one work unit
        write_warc(folder / f"{archive:02d}.warc.gz", [html(2 * archive), html(2 * archive + 1), html(archive)])
    arguments = (folder, "--language", "en", "--near_duplicates", "--workers", 1)
    done = run(*arguments, "--out", one)
    assert done.returncode == 0, done.stderr
    assert json.loads((one / "report.json").read_text())["total"]["exact_duplicate"] == 12
    undisturbed = contents(one)

    def finished() -> None:
        assert contents(two) == undisturbed

    kill_often(
        lambda _: command(*arguments, "--out", two), two, signs=6, progress=lambda: names(two), finished=finished
    )
    done = run(*arguments, "--out", two)
    assert done.returncode == 0, done.stderr
    finished()


DAMAGE = {
    "deleted": lambda data: None,
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "flipped": lambda data: (
        data[: len(data) * 3 // 4] + bytes([data[len(data) * 3 // 4] ^ 1]) + data[len(data) * 3 // 4 + 1 :]
    ),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExtractJob, Path]:
    """Returns a job that was stopped before it wrote its report, and the output expected from a complete run."""
    folder = tmp_path_factory.mktemp("stopped")
    for archive in range(2):
        write_warc(folder / f"{archive}.warc.gz", [html(archive), html(2), html(3 + archive)])
    job = ExtractJob(units([str(folder)]), ExtractSettings(near_duplicates=0.8), str(folder / "out"))
    job.begin()
    for number in range(2):
        job.read(number)
    job.choose()
    for number in range(2):
        job.finish(number)
    shutil.copytree(folder / "out", folder / "whole")
    job._replace(out=str(folder / "whole")).report()
    return job, folder / "whole"


FILES = ["00000.read.mark", "00001.jsonl.gz", "00001.npy", "chosen.npy", "chosen.mark", "00000.written.mark",
         "../0.jsonl.gz", "../1.jsonl.gz"]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_files_that_were_damaged_while_the_work_was_unfinished_are_made_again(name, how, stopped, tmp_path):
    job, whole = stopped
    out = tmp_path / "out"
    shutil.copytree(job.out, out)
    damage(out / ".parts" / name, how)
    job = job._replace(out=str(out))
    assert job.begin()
    extract_job.run(job, Executor(workers=1), quiet=True)
    assert contents(out) == contents(whole)


def test_a_choice_that_was_made_among_other_documents_is_made_again(stopped, tmp_path):
    """A file system may lose recent writes, in any order; the selection is then computed again."""
    job, whole = stopped
    job = job._replace(out=str(tmp_path / "out"))
    shutil.copytree(stopped[0].out, job.out)
    for lost in (["00001.read.mark"], ["00000.read.mark", "00001.jsonl.gz"]):
        for name in lost:
            (tmp_path / "out" / ".parts" / name).unlink()
        choice = tmp_path / "out" / ".parts" / "chosen.npy"
        choice.write_bytes(choice.read_bytes()[:-1] + b"\2")  # would keep all other documents
        marks.write_mark(str(choice.with_name("chosen.mark")), {}, {"chosen.npy": marks.sum_of(choice)})
        assert job.begin()
        assert {path.name for path in choice.parent.glob("*.mark")} <= {"00000.read.mark", "00001.read.mark"}
        for number in range(2):
            job.read(number)
        job.choose()
        for number in range(2):
            job.finish(number)
    job.report()
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("data", ["{}", '{"files": {}}', '{"files": {"a": [1, "x"]}}', "[]", "[" * 100_000])
def test_a_mark_that_is_no_mark_is_removed(data, tmp_path):
    mark = tmp_path / "00000.read.mark"
    mark.write_text(data)
    marks.forget_damaged(mark)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    ["[]", "null", '{"plan": 7}', '{"plan": {}, "sums": 7}', '{"plan": {}, "sums": {"a": ["1", 2]}}', "[" * 100_000],
)
def test_a_report_of_another_kind_is_named(data, stopped, tmp_path):
    (tmp_path / "report.json").write_text(data)
    with pytest.raises(UserError, match=r"report\.json is damaged: .*; restore it from a copy"):
        stopped[0]._replace(out=str(tmp_path)).begin()


def test_work_of_another_process_is_not_overwritten(stopped, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(stopped[0].out, out)
    before = contents(out)
    job = stopped[0]._replace(out=str(out))
    with locks.exclusive(out / ".parts" / "lock", ""):
        for overwrite in (False, True):
            with pytest.raises(UserError, match="another process is at work in this folder"):
                job.begin(overwrite=overwrite)
    assert contents(out) == {**before, ".parts/lock": (out / ".parts" / "lock").read_bytes()}
    assert job.begin(overwrite=True)


def test_parts_that_lie_elsewhere_lose_their_link_only(stopped, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(stopped[0].out, out)
    (out / ".parts").rename(elsewhere)
    (out / ".parts").symlink_to(elsewhere)
    job = stopped[0]._replace(out=str(out))
    assert job.begin()
    extract_job.run(job, Executor(workers=1), quiet=True)
    assert contents(out) == contents(stopped[1])
    assert (elsewhere / "plan.json").is_file()


@pytest.mark.parametrize("how", ["cut", "emptied"])
@pytest.mark.parametrize("name", [".parts/plan.json", "report.json"])
def test_a_damaged_plan_or_report_is_named(name, how, stopped, tmp_path):
    job, whole = stopped
    out = tmp_path / "out"
    shutil.copytree(whole if name == "report.json" else job.out, out)
    damage(out / name, how)
    before = contents(out)
    job = job._replace(out=str(out))
    with pytest.raises(UserError, match=rf"{name} is damaged: .*; restore it from a copy, or .*--overwrite"):
        job.begin()
    assert contents(out) == before
    assert job.begin(overwrite=True)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_result_of_finished_work_is_named(how, stopped, tmp_path):
    job, whole = stopped
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    damage(out / "1.jsonl.gz", how)
    job = job._replace(out=str(out))
    with pytest.raises(UserError, match=r"1\.jsonl\.gz is missing or has changed .* --overwrite"):
        job.begin()
    assert job.begin(overwrite=True)


class FailingDisk(io.BytesIO):
    """A file that raises an I/O error beyond an offset."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size or 0) > 1000 or (size or -1) < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("name", ["a.warc.gz", "d_data.xz"])
def test_a_disk_that_fails_is_no_damage_of_an_archive(name, archives, monkeypatch):
    [unit] = units([str(archives / name)])
    real = storage.open
    monkeypatch.setattr(storage, "open", lambda path: FailingDisk(real(path).read()))
    with pytest.raises(OSError, match="Input/output error"):
        list(pages(unit))


def test_progress_that_cannot_be_noted_is_no_damage_of_an_archive(archives):
    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("a.warc.gz", "d_data.xz"):
        [unit] = units([str(archives / name)])
        with pytest.raises(OSError, match="No space left"):
            list(pages(unit, progress=fails))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if (changed := DAMAGE[how](data)) is not None:
        path.write_bytes(changed)


def test_workers_end_with_the_one_that_is_killed(archives: Path, undisturbed: Path, tmp_path: Path):
    out = tmp_path / "out"
    arguments = command(archives, "--out", out, "--language", "en", "--near_duplicates", "--workers", 2)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob(".parts/*.jsonl.gz*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while (alive := _processes_of(out)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    assert subprocess.run(arguments, stdout=subprocess.DEVNULL, timeout=300).returncode == 0
    assert contents(out) == contents(undisturbed)


def _processes_of(out: Path) -> list[str]:
    """Returns the IDs of processes whose command line contains the path."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(out).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_done_work_is_not_done_again_and_other_settings_are_refused(archives: Path, undisturbed: Path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    done = run(archives, "--out", undisturbed, "--language", "en", "--near_duplicates")
    assert done.returncode == 0
    assert "already complete" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before
    done = run(archives, "--out", undisturbed, "--language", "de")
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert "Traceback" not in done.stderr


def test_poisonous_pages_cost_themselves_only(tmp_path: Path):
    """Deep nesting, endless attributes, and huge pages do not affect the pages in between, which are extracted."""
    poison = [
        b"<div>" * 200_000 + b"deep",
        b"<html><body>" + b"<table><tr><td>" * 30_000,
        b"<p " + b"a=b " * 200_000 + b">x",
        b"<![CDATA[" * 50_000,
        b"\xff\xfe" + b"\x00\xd8" * 1000,
        b"<html>" + bytes(range(256)) * 200,
        b"<ul>" + b"<li><a href=x>" * 50_000,
    ]
    pages = [page for number, bad in enumerate(poison) for page in (html(number), bad)]
    write_warc(tmp_path / "a.warc.gz", pages)
    done = run(tmp_path / "a.warc.gz", "--out", tmp_path / "out", "--page_seconds", "0.5", "--page_megabytes", "300")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["total"]["pages"] == len(pages)
    found = {each["url"] for each in documents(tmp_path / "out")["a.jsonl.gz"]}
    assert {f"http://site.test/{2 * number}" for number in range(len(poison))} <= found


def test_bad_input_is_one_message(tmp_path: Path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    write_warc(tmp_path / "a.warc.gz", [html(1)])
    for arguments, message in (
        ([tmp_path / "nothing"], "no such file"),
        ([tmp_path / "a.pdf"], "not a file of pages"),
        ([tmp_path / "a.warc.gz", "--language", "english"], "no language"),
        ([tmp_path / "a.warc.gz", "--rules", "shortness"], "no rule"),
        ([tmp_path / "a.warc.gz", "--near_duplicates", "1.5"], "at most 1"),
        ([tmp_path / "a.warc.gz", "--page_seconds", "0"], "above 0"),
    ):
        done = run(*arguments, "--out", tmp_path / "out")
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_archives_of_nothing_give_empty_results(tmp_path: Path):
    (tmp_path / "a.warc.gz").write_bytes(b"")
    (tmp_path / "b_data.xz").write_bytes(b"garbage")
    done = run(tmp_path, "--out", tmp_path / "out", "--near_duplicates", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("damaged") == 2
    assert documents(tmp_path / "out") == {"a.jsonl.gz": [], "b.jsonl.gz": []}
    assert os.listdir(tmp_path / "out").count("report.json") == 1
