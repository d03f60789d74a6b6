"""The batches of an evaluation, and what its loss means."""

import functools
import math
from collections.abc import Iterator

import numpy as np

from runtime.batches import Data, rows_of


class Evaluation:
    """The batches of an evaluation: always the same windows, evenly spaced over the evaluation documents.

    steps: batches; all windows are taken when it is None or there are fewer.
    """

    def __init__(self, data: Data, *, batch_size: int, steps: int | None, host_index: int = 0, host_count: int = 1):
        self._source = data.evaluation
        self._token_bytes = data.token_bytes
        self._batch_size = batch_size
        self._rows = rows_of(host_index, host_count, batch_size)
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

    @functools.cached_property
    def _totals(self) -> tuple[int, int]:
        """Targets of all windows, and the bytes of text that they stand for (0 when not known)."""
        targets = text_bytes = 0
        for number in self.windows:
            batch = self._source.batch([number])
            counted = batch["tokens"][:, 1:][batch["weights"] > 0]
            targets += counted.size
            if self._token_bytes is not None:
                text_bytes += int(self._token_bytes[counted].sum())
        return targets, text_bytes
