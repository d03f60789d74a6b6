"""Batches of windows: on each host its rows of the global batch of a step, or of an evaluation."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from estimator.data import compatibility
from estimator.data.stages import Data
from estimator.data.token_stream import Dataset
from estimator.errors import UserError


class Batches:
    """The batches of training: `batches(step)` has this host's rows of the global batch of that step.

    batch_size: sequences of a step on all hosts together. window_at: number of the first window of a step, where
    earlier batches had another size.
    """

    def __init__(
        self,
        source: Dataset,
        *,
        batch_size: int,
        host_index: int = 0,
        host_count: int = 1,
        window_at: Callable[[int], int] | None = None,
    ):
        self._source = source
        self._window_at = window_at or (lambda step: step * batch_size)
        self._rows = rows_of(host_index, host_count, batch_size)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """{"tokens": int32 [rows of this host, n_ctx + 1]}, and what else `Source.batch` gives"""
        first = self._window_at(step)
        return self._source.batch([first + row for row in self._rows])


def rows_of(host_index: int, host_count: int, batch_size: int) -> range:
    """The rows of the global batch that belong to a host."""
    if batch_size % host_count:
        raise UserError(f"train_batch_size: {batch_size} is no multiple of the {host_count} processes; write one")
    rows = batch_size // host_count
    return range(host_index * rows, (host_index + 1) * rows)


class EvaluationBatches:
    """The batches of an evaluation: always the same windows, evenly spaced over the evaluation documents.

    steps: batches; all windows are taken when it is None or there are fewer. Hosts among which a batch cannot be
    divided get larger ones of the same windows.
    """

    def __init__(self, data: Data, *, batch_size: int, steps: int | None, host_index: int = 0, host_count: int = 1):
        self._source = data.evaluation
        self._token_bytes = data.token_bytes
        self._batch_size = host_count * math.ceil(batch_size / host_count)
        self._rows = rows_of(host_index, host_count, self._batch_size)
        count = len(self._source) if steps is None else min(len(self._source), steps * batch_size)
        self.windows: list[int] = [i * len(self._source) // count for i in range(count)]

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """{"tokens": int32 [rows of this host, n_ctx + 1], "weights": float32 [rows, n_ctx]}, and "segments" if any"""
        last = len(self.windows) - 1
        for first in range(0, len(self.windows), self._batch_size):
            numbers = [first + row for row in self._rows]
            batch = self._source.batch([self.windows[min(number, last)] for number in numbers])
            batch["weights"][np.array(numbers) > last] = 0  # these rows are there for the shape
            yield batch

    def describe(self, loss: float) -> dict[str, float]:
        """What a mean loss in nats per token means: perplexity, and bits per byte of text where this is known."""
        metrics = {"perplexity": math.exp(min(loss, 700.0))}  # of more, the exponential is no finite number
        targets, text_bytes = self._totals
        if text_bytes:
            metrics["bits_per_byte"] = loss * targets / (math.log(2) * text_bytes)
        return metrics

    @property
    def digest(self) -> str:
        """Differs where losses cannot be compared: the windows or their number."""
        return compatibility.windows_digest(self._source.batch, self.windows)

    @functools.cached_property
    def _totals(self) -> tuple[int, int]:
        """Targets of all windows, and their bytes of text (0 if unknown)."""
        targets = text_bytes = 0
        for number in self.windows:
            batch = self._source.batch([number])
            counted = batch["tokens"][:, 1:][batch["weights"] > 0]
            targets += counted.size
            if self._token_bytes is not None:
                text_bytes += int(self._token_bytes[counted].sum())
        return targets, text_bytes
