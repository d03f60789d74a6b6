"""Parallel encoding: output is identical for any number of workers and after kills, and errors are reported."""

import contextlib
import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.killing import kill_often, names
from helpers.storage_server import free_port

from estimator.corpus.build import executors, pipeline, write_shards
from estimator.corpus.build.executors import Executor, run_tasks
from estimator.corpus.build.pipeline import encode
from estimator.corpus.build.plan import Corpus, Options
from estimator.errors import UserError
from estimator.tokenization.tokenizer import byte_level_tokenizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away", "from", "it"]
OPTIONS = ("--task_bytes", "20000", "--shard_tokens", "60000", "--split", "valid=0.1,test=0.1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Returns a directory with a text corpus that contains duplicates, next to a byte-level vocabulary."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(1)
    lines = [{"text": f"{i} " + " ".join(generator.choices(WORDS, k=generator.randint(1, 200)))} for i in range(1500)]
    lines += lines[:30]
    (folder / "texts").mkdir()
    for number in range(3):
        part = lines[number::3]
        (folder / "texts" / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    byte_level_tokenizer().save(folder / "encoder")
    return folder


def command(corpus: Path, out: Path, *options: str) -> list[str]:
    program = [sys.executable, str(ROOT / "datasets" / "encode.py"), str(corpus / "texts")]
    return [*program, "--out", str(out), "--encoder", str(corpus / "encoder"), *OPTIONS, *options]


def run(corpus: Path, out: Path, *options: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(corpus, out, *options), capture_output=True, text=True, timeout=600, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    done = run(corpus, out, "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "30 exact duplicates" in done.stdout
    found = contents(out)
    assert len([name for name in found if name.endswith(".tfrecords")]) > 8
    assert "test/text_test_0.tfrecords" in found
    return found


@pytest.mark.slow
def test_killed_twenty_times_the_shards_are_the_same(corpus, undisturbed, tmp_path):
    out = tmp_path / "out"

    def finished() -> None:
        assert contents(out) == undisturbed

    kill_often(
        lambda kills: command(corpus, out, "--workers", str(1 + kills % 2)),
        out,
        signs=20,
        progress=lambda: names(out),
        finished=finished,
    )
    done = run(corpus, out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    finished()


def test_two_workers_write_what_one_writes(corpus, undisturbed, tmp_path):
    done = run(corpus, tmp_path, "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_ray_writes_what_one_worker_writes(corpus, undisturbed, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    one, other = tmp_path / "one", tmp_path / "other"
    done = run(corpus, one, "--executor", "ray", "--workers", "2", "--task_bytes", "500000")
    assert done.returncode == 0, done.stderr
    assert run(corpus, other, "--task_bytes", "500000", "--workers", "1").returncode == 0
    assert contents(one) == contents(other)


# Two tasks kill their own process on the first attempt; a third fails in the way given by the first argument.
ON_RAY = """
import os, signal, sys
from pathlib import Path
from estimator.corpus.build.executors import Executor, run_tasks
from estimator.errors import UserError
fate, out = sys.argv[1], Path(sys.argv[2])
def work(task):
    if task in (0, 3) and not (out / f"{task}.begun").exists():
        (out / f"{task}.begun").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 4 and fate == "fails":
        raise UserError("no more")
    (out / f"{task}.done").touch()
try:
    run_tasks(work, tasks=6, executor=Executor("ray", 2), folder=out, is_done=lambda task: task == 1)
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["succeeds", "fails"])
def test_a_task_that_is_lost_on_ray_is_done_again_and_a_failure_is_told(tmp_path, fate):
    pytest.importorskip("ray", reason="ray is not installed")
    run = [sys.executable, "-c", ON_RAY, fate, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (done.returncode, done.stderr) == ((0, "") if fate == "succeeds" else (1, "error: no more\n"))
    if fate == "succeeds":
        assert sorted(path.name for path in tmp_path.glob("*.done")) == [f"{task}.done" for task in (0, 2, 3, 4, 5)]


def test_the_scripts_for_slurm_are_shown_in_their_order(corpus, tmp_path):
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    slurm = ("--executor", "slurm", "--slurm_partition", "cpu", "--slurm_time", "1:00:00", "--workers", "3")
    done = run(corpus, tmp_path, *slurm, "--slurm_script")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split("=")[1] for line in done.stdout.splitlines() if line.startswith("#SBATCH --job-name=")]
    assert names == ["encode", "choose", "shards", "move"]
    assert done.stdout.count("#SBATCH --partition=cpu") == 4
    assert "#SBATCH --time=1:00:00" in done.stdout
    assert done.stdout.count("launch_pickled_pipeline") == 4
    assert not list(tmp_path.glob("*.tfrecords"))
    done = run(corpus, tmp_path, "--executor", "slurm", "--slurm_script")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--slurm_partition" in done.stderr


def test_jobs_of_slurm_do_the_whole_work(corpus, undisturbed, tmp_path):
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    tools, out = tmp_path / "bin", tmp_path / "out"
    tools.mkdir()
    # A fake sbatch that runs the tasks of a job sequentially.
    (tools / "sbatch").write_text(
        f"""#!{sys.executable}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
last = int(re.search(r"--array=0-([0-9]+)", script)[1])
command = re.search(r"launch_pickled_pipeline .*", script)
for task in range(last + 1) if command else []:
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task), "RUN_OFFSET": "0", "SLURM_NODELIST": "here"}}
    environment["PYTHONPATH"] = {str(ROOT)!r}
    arguments = [sys.executable, "-m", "datatrove.tools.launch_pickled_pipeline", command[0].split()[1]]
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""
    )
    (tools / "scontrol").write_text("#!/bin/sh\necho here\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    options = ("--executor", "slurm", "--slurm_partition", "cpu", "--workers", "1", "--task_bytes", "1000000")
    done = run(corpus, out, *options, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "submitted" in done.stdout
    other = tmp_path / "other"
    assert run(corpus, other, "--task_bytes", "1000000", "--workers", "1").returncode == 0
    assert not (out / ".text.partial").exists()
    assert {name: data for name, data in contents(out).items() if not name.startswith(".text.slurm")} == contents(other)


def test_a_failure_of_a_worker_is_one_message_and_what_is_done_is_kept(corpus, undisturbed, tmp_path):
    broken = tmp_path / "texts"
    broken.mkdir()
    for path in (corpus / "texts").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    with open(broken / "2.jsonl", "a") as file:
        file.write('{"text": 1}\n')
    byte_level_tokenizer().save(tmp_path / "encoder")
    done = run(tmp_path, tmp_path / "out", "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 2
    assert 'line 511: the value of "text" is not text' in done.stderr
    assert not list((tmp_path / "out").glob("*.tfrecords"))
    done = run(tmp_path, tmp_path / "out", "--workers", "2", "--on_error", "skip")
    assert done.returncode == 0, done.stderr
    assert "1 no text in the record" in done.stdout
    assert not (tmp_path / "out" / ".text.partial").exists()


# Runs as a separate program, because forking this process, where JAX has started threads, could deadlock.
WITH_SMALL_FILES = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_full_disk_is_reported_and_the_same_command_continues(corpus, undisturbed, tmp_path):
    limited = [sys.executable, "-c", WITH_SMALL_FILES, *command(corpus, tmp_path, "--workers", "1")]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "the same command continues" in done.stderr
    assert not list(tmp_path.glob("*.tfrecords"))
    assert run(corpus, tmp_path, "--workers", "1").returncode == 0
    assert contents(tmp_path) == undisturbed


def test_changed_options_and_inputs_start_over(corpus, tmp_path):
    def made(**options):
        encoder, texts = str(corpus / "encoder"), str(corpus / "texts")
        one = Executor(workers=1)
        return encode([Corpus("x", (texts,))], Options(**options), encoder=encoder, out=tmp_path, executor=one)

    work = tmp_path / ".x.partial" / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "estimator.corpus.build.workspace.shards_of", lambda *_: (_ for _ in ()).throw(UserError("stopped"))
        )
        with pytest.raises(UserError, match="stopped"):
            made(task_bytes=50_000)
    assert list((work / "runs").glob("*.json"))
    (summary,) = made(task_bytes=40_000) or []
    assert summary.documents > 1000
    assert not work.exists()


def test_two_commands_do_not_write_the_same_shards_at_once(corpus, tmp_path):
    from estimator.corpus.build.pipeline import _alone
    from estimator.corpus.build.write_shards import ShardLocation

    with (
        _alone(ShardLocation(tmp_path, "text")),
        pytest.raises(UserError, match="another process is writing the shards text"),
    ):
        encode(
            [Corpus("text", (str(corpus / "texts"),))],
            Options(),
            encoder=str(corpus / "encoder"),
            out=tmp_path,
            executor=Executor(workers=1),
        )


def test_ray_and_slurm_name_the_package_they_need(monkeypatch, tmp_path):
    for name in ("datatrove.executor", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind, said in (("slurm", r"requirements-data\.txt; --executor local does not"), ("ray", "pip install ray")):
        with pytest.raises(UserError, match=said):
            run_tasks(print, tasks=2, executor=Executor(kind), folder=tmp_path, is_done=lambda _: False)


@pytest.mark.parametrize("address", ["ray://{0}", "{0}", "ray://[::1]:1", "ray://no-such-host.invalid:10001", "{1}"])
def test_an_address_of_ray_where_nothing_answers_is_refused_quickly(monkeypatch, tmp_path, address):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, contextlib.ExitStack() as others:
        for _ in range(3):  # a full queue, so that the next connection is not accepted
            others.enter_context(waiting := socket.socket()).setblocking(False)
            waiting.connect_ex(silent.getsockname())
        address = address.format(f"127.0.0.1:{free_port()}", f"127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"RAY_ADDRESS={re.escape(address)}: no cluster .*unset it") as refused:
            run_tasks(print, tasks=2, executor=Executor("ray"), folder=tmp_path, is_done=lambda _: False)
    assert "\n" not in str(refused.value)
    assert time.monotonic() - started < 10


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_ends_the_command_and_the_rerun_continues(corpus, undisturbed, tmp_path):
    for number in range(20):  # the job does not need a worker that has finished its last task
        out = tmp_path / str(number)
        with subprocess.Popen(command(corpus, out, "--workers", "2"), stderr=subprocess.PIPE, text=True) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.poll() is None and not (workers := children.read_text().split()):
                pass
            os.kill(int(workers[-1]), signal.SIGKILL)
            said = process.communicate(timeout=600)[1]
        if process.returncode:
            break
    assert process.returncode == 2
    assert re.search(r"task \d+ of encode was ended by SIGKILL.*run the same command again to continue", said), said
    assert "Traceback" not in said
    assert run(corpus, out, "--workers", "2").returncode == 0
    assert contents(out) == undisturbed


def encode_here(corpus: Path, out: Path, *, again: bool = False) -> None:
    options = Options(task_bytes=20000, shard_tokens=60000, split=(0.1, 0.1))
    corpora = [Corpus("text", (str(corpus / "texts"),))]
    executor = Executor(workers=1)
    replaced = {"overwrite": again, "again": again}
    encode(corpora, options, encoder=str(corpus / "encoder"), out=out, executor=executor, quiet=True, **replaced)


def test_overwrite_makes_a_damaged_shard_again(corpus, undisturbed, tmp_path):
    encode_here(corpus, tmp_path)
    flip(tmp_path / "text_0.tfrecords")
    encode_here(corpus, tmp_path, again=True)
    assert contents(tmp_path) == undisturbed


def test_reads_that_give_less_than_asked_change_nothing(corpus, undisturbed, tmp_path, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, (size + 1) // 2, offset))
    encode_here(corpus, tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("name", ["00001.records", "00001.columns", "00001.json", "marks", "choice.json"])
def test_files_of_unfinished_work_that_were_damaged_are_made_again(name, corpus, undisturbed, tmp_path, monkeypatch):
    def stop(*arguments):
        raise UserError("stopped")

    with monkeypatch.context() as stopped:
        stopped.setattr(pipeline, "shards_task", stop)
        with pytest.raises(UserError, match="stopped"):
            encode_here(corpus, tmp_path)
    [path] = tmp_path.rglob(name)
    data = path.read_bytes()
    digit = next(i for i in range(len(data) // 2, len(data)) if path.suffix != ".json" or chr(data[i]).isdigit())
    path.write_bytes(data[:digit] + bytes([data[digit] ^ 1]) + data[digit + 1 :])
    encode_here(corpus, tmp_path)
    assert contents(tmp_path) == undisturbed


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def stopped_before_the_moves(corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the journal of an encoding job that was stopped right after writing it."""
    finish_move = write_shards.finish_move

    def stop(plan, work, **options):
        if (work / "journal.json").exists():
            raise UserError("stopped")
        return finish_move(plan, work, **options)

    with monkeypatch.context() as stopped:
        stopped.setattr(write_shards, "finish_move", stop)
        with pytest.raises(UserError, match="stopped"):
            encode_here(corpus, out)
    return out / ".text.partial" / "work" / "journal.json"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("text_0.tfrecords", flip),
        ("text_0.tfrecords", Path.unlink),
        ("text_0.tfrecords.index", lambda path: os.truncate(path, 100)),
        ("text.json", flip),
        ("journal.json", flip),
        ("plan.jsonl", lambda path: path.write_text(path.read_text().replace("options", "optinns"))),
    ],
    ids=["flipped", "gone", "cut", "list", "journal", "plan"],
)
def test_shards_that_were_damaged_before_or_while_they_were_moved_are_made_again(
    name, damage, corpus, undisturbed, tmp_path, monkeypatch
):
    journal = stopped_before_the_moves(corpus, tmp_path, monkeypatch)
    moves = json.loads(journal.read_bytes())["moves"]
    if name.startswith("text_0"):  # has already been moved
        for source, target in moves[:-2]:
            Path(target).parent.mkdir(exist_ok=True)
            os.replace(source, target)
    [path] = tmp_path.rglob(name)
    damage(path)
    encode_here(corpus, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_moves_that_an_earlier_version_began_are_finished(corpus, undisturbed, tmp_path, monkeypatch):
    """Journals of earlier versions have no file checksums, and the oldest ones do not have a checksum of their own."""
    journal = stopped_before_the_moves(corpus, tmp_path, monkeypatch)
    values = json.loads(journal.read_bytes())
    values = {name: value for name, value in values.items() if name not in ("sums", "checksum")}
    journal.write_text(json.dumps(values))
    source, target = values["moves"][0]
    Path(target).parent.mkdir(exist_ok=True)
    os.replace(source, target)
    monkeypatch.setattr(write_shards, "write_shard", None)  # fails if any shard is written again
    encode_here(corpus, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_shard_that_was_damaged_before_the_others_were_written_is_made_again(
    corpus, undisturbed, tmp_path, monkeypatch
):
    with monkeypatch.context() as stopped:
        stopped.setattr(pipeline, "move_task", lambda *_: (_ for _ in ()).throw(UserError("stopped")))
        with pytest.raises(UserError, match="stopped"):
            encode_here(corpus, tmp_path)
    [path] = tmp_path.rglob("text_1.tfrecords")
    flip(path)
    encode_here(corpus, tmp_path)
    assert contents(tmp_path) == undisturbed
