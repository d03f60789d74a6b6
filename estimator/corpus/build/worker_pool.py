"""Runs numbered tasks in local processes, and notices when one dies.

multiprocessing's pools wait forever for the result of a killed process, and concurrent.futures does not report whose
process was killed. Here each worker has a pipe, which the system closes when the worker dies.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

from estimator.errors import UserError, message

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends
END_SECONDS = 10.0  # of a worker, from SIGTERM to SIGKILL

Work = Callable[[int], None]


def run_in_processes(
    work: Work, tasks: list[int], *, workers: int, name: str, progress: contextlib.AbstractContextManager[None]
) -> None:
    """Calls `work(i)` for each task in `workers` processes; raises UserError for one that fails or is killed.

    work: can be pickled. name: a word for the tasks, in messages. progress: entered while the tasks run.
    """
    # Forked workers share loaded data, such as a vocabulary. JAX does not survive a fork.
    forks = sys.platform == "linux" and "jax" not in sys.modules
    context = multiprocessing.get_context("fork") if forks else multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    running: dict[Connection, int] = {}
    waiting = deque(tasks)
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, theirs, os.getpid()))
            process.start()
            theirs.close()
            processes[ours] = process
            running[ours] = waiting.popleft()
            _send(ours, running[ours])
        with progress:  # after the forks: a lock that its thread holds would stay locked in a worker
            while running:
                for pipe in cast(list[Connection], wait(list(running))):
                    _check_reply(pipe, processes[pipe], f"task {running.pop(pipe)} of {name}")
                    if waiting:
                        running[pipe] = waiting.popleft()
                        _send(pipe, running[pipe])
    finally:
        _end(processes)


def _send(pipe: Connection, task: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(task)  # to a worker that has died: noticed when its reply is missing


def _check_reply(pipe: Connection, process: BaseProcess, task: str) -> None:
    """Raises UserError where the task failed or its worker died."""
    try:
        failure = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        if code > 0:
            raise UserError(f"{task} ended with code {code}; its message is above") from None
        cause = signal.Signals(-code).name if code else "another program"
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        raise UserError(
            f"{task} was ended by {cause}{memory}; run the same command again to continue, with fewer workers if "
            "this happens again"
        ) from None
    if failure is not None:
        raise UserError(failure)


def _end(processes: dict[Connection, BaseProcess]) -> None:
    for pipe, process in processes.items():
        pipe.close()
        process.terminate()
    for process in processes.values():
        process.join(END_SECONDS)
        process.kill()
        process.join()


def _serve(work: Work, pipe: Connection, parent: int) -> None:
    """Runs the tasks whose numbers come through the pipe; replies None, or the message of a failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while os.getppid() == parent:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        pipe.send(attempt(work, task))


def attempt(work: Work, task: int) -> str | None:
    """Runs a task in a worker; returns None, or the message of a failure."""
    try:
        work(task)
    except (UserError, OSError) as error:
        return message(error)
    return None
