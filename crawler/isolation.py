"""Calls that may never come back, in processes of their own: an endless loop or a crash costs one call only.

`Isolated(function, ...).map(items)` gives for each item, in order, what the function returned, or a `Failure`. A call
has so many seconds of processor time and so much memory; the process that exceeds them is replaced. Processor time,
not time on the clock, so that a busy machine decides as an idle one does.
"""

import collections
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

# A call that sleeps uses no processor time; this many times the limit on the clock ends it too.
WAITING = 20
# A fresh process now and then gives back memory that a library leaks.
CALLS_PER_PROCESS = 1000


class Limits(NamedTuple):
    """Of one call: seconds of processor time, and megabytes above what the process holds before its first call."""

    seconds: float = 20.0
    megabytes: int = 2000


LIMITS = Limits()


class Failure(NamedTuple):
    """A call without a result. reason: "time", "memory" or "crash"; detail: the name of the error or signal."""

    reason: str
    detail: str = ""


class Isolated:
    """A function that is called in `processes` processes, each call within the limits.

    function: of one argument, importable by its name; it, its arguments and its results must be picklable.
    preload: modules that the function needs, imported before a new process starts work.
    A context manager: leaving it ends the processes.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        limits: Limits = LIMITS,
        processes: int = 1,
        preload: tuple[str, ...] = (),
    ):
        self._function, self._limits = function, limits
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["crawler.fork_server", __name__, *preload])
        self._processes = [_Process(self) for _ in range(processes)]

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """The result, or Failure, of each item, in order; as many are under way as there are processes."""
        waiting: collections.deque[_Process] = collections.deque()
        for number, item in enumerate(items):
            process = self._processes[number % len(self._processes)]
            if len(waiting) == len(self._processes):
                yield waiting.popleft().result()
            process.call(item)
            waiting.append(process)
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()

    def start(self) -> tuple[Any, Connection]:
        """A new process and our end of the pipe to it."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._function, self._limits), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    @property
    def clock_seconds(self) -> float:
        return WAITING * self._limits.seconds


class _Process:
    """One process, started when there is something to do, and again after its end."""

    def __init__(self, owner: Isolated):
        self._owner = owner
        self._process: Any = None
        self._pipe: Connection | None = None
        self._item: Any = None
        self._calls = 0

    def call(self, item: Any) -> None:
        if self._pipe is None or self._calls >= CALLS_PER_PROCESS:
            self.end()
            self._process, self._pipe = self._owner.start()
        self._calls += 1
        self._item = item
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(item)  # one that died between calls is noticed when its result is missing

    def result(self) -> Any:
        """What the call gave; one that somebody else ended (SIGKILL, SIGTERM) is made once more."""
        result = self._result()
        if isinstance(result, Failure) and result.detail in ("SIGKILL", "SIGTERM"):
            self.call(self._item)
            result = self._result()
        self._item = None
        return result

    def _result(self) -> Any:
        assert self._pipe is not None, "result() follows call()"
        try:
            if not self._pipe.poll(self._owner.clock_seconds):
                self.end()
                return Failure("time", "waiting")
            result = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self.end()
            name = signal.Signals(-code).name if code < 0 else f"exit {code}"
            return Failure("time" if code == -signal.SIGPROF else "crash", name)
        if isinstance(result, Failure):
            self.end()
        return result

    def end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()
        self._pipe, self._calls = None, 0


def _serve(pipe: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    """The loop of a process: an argument comes in, a result goes out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    # The reason replaces what a library or its C code prints about a bad page.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    largest = _address_space() + (limits.megabytes << 20)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (largest, largest))
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        try:
            result = function(item)
        except MemoryError:
            result = Failure("memory")
        except Exception as error:
            # The one place for it: what input does to a library cannot be known, and is reported by its name.
            result = Failure("crash", type(error).__name__)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(result)


def _address_space() -> int:
    """Bytes of address space of this process, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="utf-8") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30
