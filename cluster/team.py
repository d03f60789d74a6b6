"""The jobs of a run on all of its workers, asked and told at once."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.job import Job, Look
from cluster.workers import Host, HostLost

T = TypeVar("T")
AT_ONCE = 64


class Team:
    """One job for each host, in their order."""

    def __init__(self, hosts: Sequence[Host], run: str):
        self.hosts = list(hosts)
        self.jobs = [Job(host, run) for host in hosts]
        self._threads = ThreadPoolExecutor(min(AT_ONCE, len(self.jobs)), thread_name_prefix="worker")

    def each(self, do: Callable[[int], T]) -> list[T]:
        """`do(index)` for all at once; the first error is raised when all are done."""
        tasks = [self._threads.submit(do, index) for index in range(len(self.jobs))]
        for task in tasks:
            task.exception()
        return [task.result() for task in tasks]

    def looks(self, seen: Sequence[int | None]) -> list[Look | None]:
        """A look at each; None where the host did not answer."""

        def look(index: int) -> Look | None:
            try:
                return self.jobs[index].look(seen[index])
            except HostLost:
                return None

        return self.each(look)

    def terminate(self) -> None:
        self.each(lambda index: _unless_lost(self.jobs[index].terminate))

    def kill(self) -> None:
        """Kills all jobs on the hosts that answer."""
        self.each(lambda index: _unless_lost(self.jobs[index].kill))

    def close(self) -> None:
        self._threads.shutdown()
        for host in self.hosts:
            host.close()


def _unless_lost(do: Callable[[], None]) -> None:
    with contextlib.suppress(HostLost):  # what runs there will not find the others, and ends by itself
        do()
