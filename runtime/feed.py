"""Batches on the devices before they are asked for."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

AHEAD = 2  # groups of batches made before they are needed
CALL_SECONDS = 5.0  # a device call of several steps may take this long, so that Ctrl-C is heard


class Group(NamedTuple):
    """Consecutive batches for one call of the device."""

    first_step: int
    count: int
    batches: Any  # leaves [count or more, accumulation, examples, ...]; without the first dim when calls do one step


class Plan:
    """(first step, count) of each group of a run; none crosses the end or a multiple of one of `stops`.

    Groups have at most `most` steps, and only as many as take CALL_SECONDS by the last `seconds_per_step` told.
    """

    def __init__(self, first: int, end: int, *, most: int, stops: tuple[int | None, ...]):
        self._first, self._end, self._most = first, end, most
        self._stops = [stop for stop in stops if stop]
        self.seconds_per_step: float | None = None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self._first
        while step < self._end:
            count = min(self._limit(), self._end - step, *(stop - step % stop for stop in self._stops))
            yield step, count
            step += count

    def _limit(self) -> int:
        if self._most == 1 or self.seconds_per_step is None:
            return 1
        return max(1, min(self._most, int(CALL_SECONDS / max(self.seconds_per_step, 1e-6))))


class Feed:
    """Iterator of the groups of a run; a thread makes them, so that the device need not wait for the host.

    input_fn: step -> this host's rows of the global batch, a dict of arrays [rows, ...].
    plan: yields (first step, count) of each group.
    accumulation: the rows are cut in this many parts, one after the other on the devices.
    most: steps of the largest group; 1 leaves out the dim of the steps.
    """

    def __init__(
        self,
        input_fn: Callable[[int], dict[str, np.ndarray]],
        plan: Iterable[tuple[int, int]],
        *,
        sharding: NamedSharding,
        accumulation: int,
        most: int,
    ):
        self._input_fn = input_fn
        self._plan = plan
        self._sharding = sharding
        self._accumulation = accumulation
        self._most = most
        self._ready: queue.Queue[Group | BaseException | None] = queue.Queue(maxsize=AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Group]:
        return self

    def __next__(self) -> Group:
        item = self._ready.get()
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        while not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join()

    def _run(self) -> None:
        try:
            for first, count in self._plan:
                if not self._put(self._make(first, count)):
                    return
            self._put(None)
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: Group | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _make(self, first: int, count: int) -> Group:
        steps = [self._cut(self._input_fn(step)) for step in range(first, first + count)]
        if self._most == 1:
            return Group(first, count, place(steps[0], self._sharding))
        # Room that the call does not look at: groups of all sizes share one compiled program, and so the same bits.
        steps += [steps[-1]] * (self._most - count)
        return Group(first, count, place(jax.tree.map(lambda *leaves: np.stack(leaves), *steps), self._sharding))

    def _cut(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: rows.reshape(self._accumulation, -1, *rows.shape[1:]) for name, rows in batch.items()}


def place(batch: Any, sharding: NamedSharding) -> Any:
    """This host's part of a global batch, on its devices."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
