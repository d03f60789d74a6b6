"""The jobs of a run on all of its workers, queried and controlled in parallel."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from estimator.launch.interfaces import Host, HostLost
from estimator.launch.job import Job, JobStatus

T = TypeVar("T")
AT_ONCE = 64


class JobGroup:
    """One job for each host, in their order."""

    def __init__(self, hosts: Sequence[Host], run: str):
        self.hosts = list(hosts)
        self.jobs = [Job(host, run) for host in hosts]
        self._threads = ThreadPoolExecutor(min(AT_ONCE, len(self.jobs)), thread_name_prefix="worker")

    def each(self, do: Callable[[int], T]) -> list[T]:
        """Calls `do(index)` for all in parallel; raises the first error when all are done."""
        tasks = [self._threads.submit(do, index) for index in range(len(self.jobs))]
        for task in tasks:
            task.exception()
        return [task.result() for task in tasks]

    def looks(self, seen: Sequence[int | None]) -> list[JobStatus | None]:
        """A look at each; None where the host did not answer."""

        def look(index: int) -> JobStatus | None:
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
    with contextlib.suppress(HostLost):  # its process will not find the others, and ends
        do()
