"""Batches out of windows: on each host its own rows of the batch of a step."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from runtime.errors import UserError
from runtime.windows import Source


class EvaluationSet(Protocol):
    """Windows by number, always the same ones."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]: ...


class Data(NamedTuple):
    """Opened data.

    train: windows by number. evaluation: a fixed set of windows. notes: lines for the console.
    tokenizer: digest of the vocabulary, from its folder or else from the shards; None if neither tells.
    token_bytes: int32 [ids], bytes of text that each id stands for, if the folder of the vocabulary is known.
    """

    train: Source
    evaluation: EvaluationSet
    tokenizer: str | None
    token_bytes: np.ndarray | None
    notes: list[str]


class Batches:
    """The batches of training: `batches(step)` has this host's rows of the global batch of that step.

    batch_size: sequences of a step on all hosts together.
    """

    def __init__(self, source: Source, *, batch_size: int, host_index: int = 0, host_count: int = 1):
        self._source = source
        self._batch_size = batch_size
        self._rows = rows_of(host_index, host_count, batch_size)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """{"tokens": int32 [rows of this host, n_ctx + 1]}, and what else `Source.batch` gives"""
        first = step * self._batch_size
        return self._source.batch([first + row for row in self._rows])


def rows_of(host_index: int, host_count: int, batch_size: int) -> range:
    """The rows of the global batch that belong to a host."""
    if batch_size % host_count:
        raise UserError(f"a batch of {batch_size} cannot be divided among {host_count} hosts; make it a multiple of it")
    rows = batch_size // host_count
    return range(host_index * rows, (host_index + 1) * rows)
