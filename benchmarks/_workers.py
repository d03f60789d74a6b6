"""Processes that each hold something compiled and run it when they are told to, so that sides can be timed in turn.

A worker whose turn it is not is stopped (SIGSTOP): its threads do not spin, and whoever is measured has the machine to
itself. Workers talk in lines of JSON; what libraries print goes to stderr.
"""

import atexit
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from estimator.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


class Recorded(subprocess.Popen[str]):
    """A process whose output goes into files, so that it never waits until somebody reads it."""

    def __init__(self, command: list[str], *, merged: bool = True, **options: Any):
        """merged: of stdout and stderr in one."""
        self._files = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(1 if merged else 2)]  # noqa: SIM115
        stderr = subprocess.STDOUT if merged else self._files[1]
        super().__init__(command, stdout=self._files[0], stderr=stderr, text=True, **options)
        atexit.register(self.kill)  # where what started it fails before it ends

    def outputs(self, timeout: float) -> list[str]:
        """What it had written when it ended: stdout and stderr, or both in one."""
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        return [file.read() for file in self._files]


class WorkerError(Exception):
    """What a worker could not do, in one line."""


class Worker:
    """A process `python -m MODULE KIND OPTIONS`, which answers with the methods of an object; see `serve`."""

    def __init__(
        self,
        module: str,
        kind: str,
        options: dict[str, Any],
        *,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ):
        self.kind = kind
        command, variables = [python, "-m", module, kind, json.dumps(options)], dict(os.environ)
        if kind == "ours":
            command, variables = as_a_user_starts_it(command, variables)
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def ask(self, what: str, **arguments: Any) -> Any:
        """What the method `what` returns. WorkerError when it fails, or when the worker has died."""
        assert self._process.stdin
        assert self._process.stdout
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps([what, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.kind}: the process ended with code {self._process.wait()}")
        self._signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.kind}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: int) -> None:
        """To the process, if it lives, and to all that it started."""
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def as_a_user_starts_it(command: list[str], variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command and environment under which a run of ours computes: those that main.py gives to a training run.

    Its bytecode is kept, as pip keeps that of the peers.
    """
    from estimator.system import malloc_settings  # peers run in environments without what it needs

    return command, {k: v for k, v in malloc_settings.environment(variables).items() if k != "PYTHONDONTWRITEBYTECODE"}


def serve(methods: Any) -> None:
    """The worker's side: answers each line [method, arguments] until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": getattr(methods, name)(**arguments)}
        except (UserError, RuntimeError, ValueError, TypeError, ImportError, MemoryError) as error:
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[0][:300]}"}
        gc.collect()
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # who asked has gone
            os._exit(1)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def best(function: Callable[[], Any], *, times: int = 5, most: float = 10.0) -> float:
    """Seconds of the fastest of some runs, after one that does not count. most: seconds after which no other begins."""
    function()
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < most:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def forget_peak() -> None:
    """Lets the largest resident memory of this process begin again."""
    gc.collect()
    with contextlib.suppress(OSError):  # not everywhere
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int:
    """The largest resident memory of this process since then, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0
