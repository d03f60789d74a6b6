"""Prefetches batches onto the devices."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

AHEAD = 2  # groups prepared ahead
CALL_SECONDS = 5.0  # upper limit of a multi-step call, so that Ctrl-C is handled soon


class StepGroup(NamedTuple):
    """Consecutive batches for one device call."""

    first_step: int
    count: int
    batches: Any  # leaves [count or more, accumulation, examples, ...]; without the first dim when calls do one step


class StepPlan:
    """Yields (first step, count) of each group; none crosses the end, a multiple of one of `stops`, or one of `ends`.

    A group has at most `max_steps_per_call` steps, and no more than fit into CALL_SECONDS at the latest
    `seconds_per_step`.
    """

    def __init__(
        self, first: int, end: int, *, max_steps_per_call: int, stops: tuple[int | None, ...], ends: Sequence[int] = ()
    ):
        self._ends = ends
        self._first, self._end, self._max_steps = first, end, max_steps_per_call
        self._stops = [stop for stop in stops if stop]
        self.seconds_per_step: float | None = None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self._first
        while step < self._end:
            ends = [end - step for end in self._ends if end > step]
            count = min(self._limit(), self._end - step, *(stop - step % stop for stop in self._stops), *ends)
            yield step, count
            step += count

    def _limit(self) -> int:
        if self._max_steps == 1 or self.seconds_per_step is None:
            return 1
        return max(1, min(self._max_steps, int(CALL_SECONDS / max(self.seconds_per_step, 1e-6))))


class Prefetcher:
    """Iterates over the groups of a run; a thread prepares them, so the device does not wait for the host.

    input_fn: step -> this host's rows of the global batch, a dict of arrays [rows, ...], which it may reuse.
    plan: yields (first step, count) of each group.
    accumulation: number of micro-batches that a step is split into.
    max_steps_per_call: steps of the largest group; 1 omits the leading dim.
    """

    def __init__(
        self,
        input_fn: Callable[[int], dict[str, np.ndarray]],
        plan: Iterable[tuple[int, int]],
        *,
        sharding: NamedSharding,
        accumulation: int,
        max_steps_per_call: int,
    ):
        self._input_fn = input_fn
        self._plan = plan
        self._sharding = sharding
        self._accumulation = accumulation
        self._max_steps = max_steps_per_call
        self._ready: queue.Queue[StepGroup | BaseException | None] = queue.Queue(maxsize=AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[StepGroup]:
        return self

    def __next__(self) -> StepGroup:
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
        except BaseException as error:  # passed to the training thread, which raises it
            self._put(error)

    def _put(self, item: StepGroup | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _make(self, first: int, count: int) -> StepGroup:
        steps = [self._cut(self._input_fn(step)) for step in range(first, first + count)]
        if self._max_steps == 1:
            return StepGroup(first, count, place(steps[0], self._sharding))
        # Padding the call ignores, so every group size runs one compiled program and gives identical bits.
        steps += [steps[-1]] * (self._max_steps - count)
        return StepGroup(first, count, place(jax.tree.map(lambda *leaves: np.stack(leaves), *steps), self._sharding))

    def _cut(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # A copy, as the input function may fill its arrays again, which JAX shares on CPUs and reads late elsewhere.
        return {name: np.array(rows).reshape(self._accumulation, -1, *rows.shape[1:]) for name, rows in batch.items()}


def place(batch: Any, sharding: NamedSharding) -> Any:
    """Places this host's part of a global batch on its devices."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
