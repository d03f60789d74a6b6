"""Which models are in memory: loading, eviction by least use, and swaps that drop no request.

All state belongs to asyncio's event loop, so it needs no lock: only loading and closing run in threads. One worker
loads, swaps and evicts, one after the other; requests wait for it in line. States of a model:

    unloaded -> loading -> ready -> draining -> unloaded        failed -> loading (again after RETRY_SECONDS)

A model that is being swapped stays ready: the new version takes over in one step, and the old one answers what it
has begun.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Literal, TypeVar

from estimator.errors import UserError, describe_os_error
from estimator.quantities import size
from serving.config import ModelEntry
from serving.loaded import LoadedModel

T = TypeVar("T")
log = logging.getLogger(__name__)
RETRY_SECONDS = 30  # before a failed model is tried again for a request
# A checkpoint, a disk, a device or its memory that is at fault, and no bug of ours: the other models serve on.
FAULTS = (UserError, OSError, MemoryError, RuntimeError, ValueError)


class State(StrEnum):
    """What a model is doing."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class UnknownModel(Exception):
    """No model has this key."""


class Unavailable(Exception):
    """A model cannot answer now. retry_after: whole seconds; None where asking again is useless."""

    def __init__(self, message: str, *, retry_after: int | None):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(eq=False)
class Version:
    """A loaded checkpoint and the requests that use it."""

    model: LoadedModel
    nbytes: int
    in_use: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> "Version":
        self.in_use += 1
        self.idle.clear()
        return self

    def release(self) -> None:
        self.in_use -= 1
        if not self.in_use:
            self.idle.set()


class Lease:
    """The right to use a version; it stays in memory until release()."""

    def __init__(self, version: Version):
        self.model = version.model
        self._version: Version | None = version

    def release(self) -> None:
        """May be called again, to no effect."""
        version, self._version = self._version, None
        if version:
            version.release()


@dataclass(eq=False)
class Entry:
    """A model of the configuration, loaded or not."""

    config: ModelEntry
    state: State = State.UNLOADED
    version: Version | None = None
    error: str = ""
    failed_at: float = 0.0
    last_use: int = 0
    """A counter that grows with each use of any model."""
    nbytes: int | None = None
    """Memory at its last load; None before the first."""
    requests: int = 0
    waiting: list[asyncio.Future[Version]] = field(default_factory=list)
    is_queued: bool = False

    def describe(self) -> dict[str, object]:
        version = self.version
        return {
            "key": self.config.key,
            "state": self.state,
            "step": version.model.step if version else None,
            "bytes": version.nbytes if version else None,
            "in_use": version.in_use if version else 0,
            "waiting": len(self.waiting),
            "requests": self.requests,
            "error": self.error or None,
        }


Task = Literal["load", "swap", "unload"]


@dataclass(eq=False)
class Job:
    """Work for the one worker. done: gives the error's sentence, "" without one."""

    task: Task
    entry: Entry
    done: asyncio.Future[str]


class Registry:
    """Models by key, within a budget of memory.

    load: entry -> model, called in a thread; raises one of FAULTS. estimate: entry -> bytes before a first load.
    on_event: called with ("load" | "failure" | "eviction" | "swap", key). Make and use it inside the event loop.
    """

    def __init__(
        self,
        models: list[ModelEntry],
        *,
        load: Callable[[ModelEntry], LoadedModel],
        estimate: Callable[[ModelEntry], int],
        newest_step: Callable[[ModelEntry], int | None],
        memory_bytes: int,
        load_timeout: float,
        max_waiting: int,
        note: Callable[[str], None],
        on_event: Callable[[str, str], None] = lambda event, key: None,
    ):
        self.entries = {model.key: Entry(model) for model in models}
        self.memory_bytes = memory_bytes
        self.is_closing = False
        self._load, self._estimate, self._newest_step = load, estimate, newest_step
        self._load_timeout, self._max_waiting = load_timeout, max_waiting
        self._note, self._on_event = note, on_event
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(8, "registry")  # not asyncio's own, whose end waits for them
        self._clock = itertools.count(1)
        self._retiring: dict[Version, asyncio.Task[None]] = {}
        self._worker = asyncio.create_task(self._work())
        for entry in self.entries.values():
            if entry.config.load == "start":
                self.request("load", entry.config.key)

    @property
    def used_bytes(self) -> int:
        """Memory of all versions, those that drain included."""
        versions = [entry.version for entry in self.entries.values() if entry.version]
        return sum(version.nbytes for version in [*versions, *self._retiring])

    def request(self, task: Task, key: str) -> asyncio.Future[str]:
        """Puts work in line; its result is the error's sentence, or ""."""
        entry = self._entry(key)
        job = Job(task, entry, asyncio.get_running_loop().create_future())
        entry.is_queued |= task == "load"
        self._jobs.put_nowait(job)
        return job.done

    async def acquire(self, key: str) -> Lease:
        """A model, loaded if need be, that stays in memory until release(). Raises UnknownModel, Unavailable."""
        entry = self._entry(key)
        version = await self._version(entry)
        entry.requests += 1
        entry.last_use = next(self._clock)
        return Lease(version)

    @contextlib.asynccontextmanager
    async def use(self, key: str) -> AsyncIterator[LoadedModel]:
        """The same for a `with`."""
        lease = await self.acquire(key)
        try:
            yield lease.model
        finally:
            lease.release()

    async def poll(self, seconds: float) -> None:
        """Checks for newer checkpoints every `seconds` until cancelled and swaps in those of ready models."""
        while True:
            await asyncio.sleep(seconds)
            for key, entry in self.entries.items():
                if entry.state is State.READY and entry.version:
                    with contextlib.suppress(*FAULTS):  # a run that cannot be read now: the version in memory serves on
                        step = await self._in_thread(self._newest_step, entry.config)
                        if step is not None and entry.version and step > entry.version.model.step:
                            await self.request("swap", key)

    async def close(self, timeout: float) -> None:
        """Lets running requests end for `timeout` seconds, then ends them; new ones are refused immediately."""
        self.is_closing = True
        self._worker.cancel()
        for entry in self.entries.values():
            self._refuse(entry, Unavailable("the server is shutting down", retry_after=5))
        versions = [entry.version for entry in self.entries.values() if entry.version]
        await asyncio.gather(*(self._close(version, timeout) for version in [*versions, *self._retiring]))

    def _entry(self, key: str) -> Entry:
        if key not in self.entries:
            raise UnknownModel(key)
        return self.entries[key]

    async def _version(self, entry: Entry) -> Version:
        """The version in memory, taken; waits for a load where there is none."""
        if self.is_closing:
            raise Unavailable("the server is shutting down", retry_after=5)
        if entry.state is State.READY and entry.version:
            if not entry.version.model.engine.error:
                return entry.version.take()
            self._lose(entry, entry.version)
        if entry.config.load == "request" and entry.state in (State.UNLOADED, State.FAILED):
            raise Unavailable(f"model {entry.config.key} is not loaded; an administrator loads it", retry_after=60)
        if entry.state is State.FAILED and time.monotonic() < entry.failed_at + RETRY_SECONDS:
            raise Unavailable(f"model {entry.config.key} could not be loaded: {entry.error}", retry_after=None)
        if len(entry.waiting) >= self._max_waiting:
            raise Unavailable(f"{len(entry.waiting)} requests wait for model {entry.config.key} already", retry_after=5)
        future: asyncio.Future[Version] = asyncio.get_running_loop().create_future()
        entry.waiting.append(future)
        if not entry.is_queued:
            self.request("load", entry.config.key)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._load_timeout)
        except BaseException as error:
            if future in entry.waiting:
                entry.waiting.remove(future)
            elif future.done() and not future.exception():  # handed over in the moment in which it was given up
                future.result().release()
            if isinstance(error, TimeoutError):
                reason = f"model {entry.config.key} is not loaded yet; ask again"
                raise Unavailable(reason, retry_after=30) from None
            raise

    def _lose(self, entry: Entry, version: Version) -> None:
        """Gives up a version whose engine has failed; RETRY_SECONDS later a request loads it again."""
        entry.version, entry.error = None, str(version.model.engine.error)
        entry.state, entry.failed_at = State.FAILED, time.monotonic()
        self._retiring[version] = asyncio.create_task(self._retire(version))
        self._on_event("failure", entry.config.key)

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            entry, error = job.entry, ""
            try:
                match job.task:
                    case "load":
                        await self._do_load(entry)
                    case "swap":
                        await self._do_swap(entry)
                    case "unload":
                        await self._do_unload(entry)
            except FAULTS as fault:
                error = _sentence(fault)
            except Exception as bug:  # else the worker ends, and all later requests wait for nothing
                log.exception("%s: %s", entry.config.key, job.task)
                error = f"{type(bug).__name__}: {bug}"
                if entry.state is not State.READY:
                    self._fail(entry, error)
            if not job.done.done():
                job.done.set_result(error)

    async def _do_load(self, entry: Entry) -> None:
        entry.is_queued = False
        if entry.state is State.READY:
            return
        entry.state, entry.error = State.LOADING, ""
        try:
            await self._make_room(entry)
            self._install(entry, await self._loaded(entry))
        except FAULTS as fault:
            self._fail(entry, _sentence(fault))
            raise
        self._on_event("load", entry.config.key)

    def _fail(self, entry: Entry, error: str) -> None:
        entry.state, entry.error, entry.failed_at = State.FAILED, error, time.monotonic()
        self._refuse(entry, Unavailable(f"model {entry.config.key} could not be loaded: {error}", retry_after=None))
        self._note(f"{entry.config.key}: {error}")
        self._on_event("failure", entry.config.key)

    async def _do_swap(self, entry: Entry) -> None:
        """The new version is loaded next to the old one where both fit in memory, else after it."""
        old = entry.version
        if entry.state is not State.READY or old is None:
            await self._do_load(entry)
            return
        try:
            await self._make_room(entry)
        except UserError:
            await self._do_unload(entry)
            await self._do_load(entry)
            return
        self._install(entry, await self._loaded(entry))
        self._retiring[old] = asyncio.create_task(self._retire(old))
        self._on_event("swap", entry.config.key)

    async def _do_unload(self, entry: Entry) -> None:
        """Waits for the requests that use it; those that come meanwhile wait for the next load."""
        if entry.state is not State.READY or entry.version is None:
            return
        entry.state, version = State.DRAINING, entry.version
        if version.in_use:
            await version.idle.wait()
        try:
            await self._close(version, 0)
        finally:
            entry.version, entry.state = None, State.UNLOADED
        self._note(f"{entry.config.key}: unloaded")
        if entry.waiting and not entry.is_queued:
            self.request("load", entry.config.key)

    async def _make_room(self, entry: Entry) -> None:
        """Evicts the least recently used models until this one fits. UserError when it never will."""
        needed = entry.nbytes or await self._in_thread(self._estimate, entry.config)
        while self.used_bytes + needed > self.memory_bytes:
            if self._retiring:
                await asyncio.wait(self._retiring.values(), return_when=asyncio.FIRST_COMPLETED)
                continue
            ready = [other for other in self.entries.values() if other.state is State.READY and other is not entry]
            if not ready:
                raise UserError(
                    f"needs {needed:,} bytes, but memory_bytes is {self.memory_bytes:,}, of which {self.used_bytes:,} "
                    "are in use; raise memory_bytes, or lower slots or the model's precision"
                )
            victim = min(ready, key=lambda other: (bool(other.version and other.version.in_use), other.last_use))
            await self._do_unload(victim)
            self._on_event("eviction", victim.config.key)

    async def _loaded(self, entry: Entry) -> Version:
        self._note(f"{entry.config.key}: loading")
        begin = time.monotonic()
        model = await self._in_thread(self._load, entry.config)
        entry.nbytes = model.engine.nbytes
        seconds = time.monotonic() - begin
        self._note(f"{entry.config.key}: step {model.step}, {size(entry.nbytes)}, loaded in {seconds:.1f} s")
        return Version(model, entry.nbytes)

    def _install(self, entry: Entry, version: Version) -> None:
        """Makes a version the one that answers, and hands it to all who wait, so that none is overtaken."""
        entry.version, entry.state, entry.error = version, State.READY, ""
        entry.last_use = next(self._clock)
        waiting, entry.waiting = entry.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(version.take())

    def _refuse(self, entry: Entry, error: Unavailable) -> None:
        waiting, entry.waiting = entry.waiting, []
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    async def _retire(self, version: Version) -> None:
        if version.in_use:
            await version.idle.wait()
        await self._close(version, 0)
        del self._retiring[version]

    async def _close(self, version: Version, timeout: float) -> None:
        await self._in_thread(partial(version.model.engine.close, drain=timeout > 0, timeout=timeout))

    def _in_thread(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _sentence(fault: BaseException) -> str:
    if isinstance(fault, OSError):
        return describe_os_error(fault)
    if isinstance(fault, UserError):
        return " ".join(str(fault).split())  # a problem a line
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
