"""Worker pool: each task runs once, and a worker that crashes or fails stops all others with a single error message."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from estimator.corpus.build.worker_pool import run_in_processes
from estimator.errors import UserError


def work(folder: Path, how: str, task: int) -> None:
    if task == 3 and not (folder / "again").exists():
        if how == "error":
            raise UserError("texts.txt: not text")
        if how == "system":
            raise FileNotFoundError(2, "No such file or directory", "texts.txt")
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), getattr(signal, how))
    with open(folder / str(task), "a") as file:
        file.write(f"{os.getpid()} ")


def start(folder: Path, how: str, tasks: list[int]) -> None:
    run_in_processes(
        functools.partial(work, folder, how), tasks, workers=2, name="encode", progress=contextlib.nullcontext()
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("SIGKILL", "task 3 of encode was ended by SIGKILL, as the system does when memory runs out; run the same"),
        ("SIGTERM", "task 3 of encode was ended by SIGTERM; run the same command again to continue"),
        ("exit", "task 3 of encode ended with code 7"),
        ("error", "^texts.txt: not text$"),
        ("system", "^texts.txt: No such file or directory; check the spelling of the path$"),
    ],
)
def test_a_task_that_ends_its_worker_is_named_and_the_rest_continues(how: str, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        start(tmp_path, how, [1, 2, 3, 4, 5, 6])
    assert not multiprocessing.active_children()
    assert not (tmp_path / "3").exists()
    (tmp_path / "again").touch()
    left = [task for task in range(1, 7) if not (tmp_path / str(task)).exists()]
    start(tmp_path, how, left)
    done = {path.name: path.read_text().split() for path in tmp_path.iterdir() if path.name != "again"}
    assert sorted(done) == ["1", "2", "3", "4", "5", "6"]
    assert str(os.getpid()) not in {process for processes in done.values() for process in processes}


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_forked_workers_are_missed_too(tmp_path: Path, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    with pytest.raises(UserError, match="task 3 of encode was ended by SIGKILL"):
        start(tmp_path, "SIGKILL", [3, 4])
