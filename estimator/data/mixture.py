"""Several sources of windows as one, in exact proportions."""

import bisect
from collections.abc import Iterable, Sequence

import numpy as np

from estimator.data.token_stream import Dataset, WindowSpan
from estimator.errors import UserError
from estimator.hashing import key_of, permute

_MIX = 4  # purpose of a hash, another than those of estimator/data/token_stream.py
_MAX_BLOCK = 1000


class Mixture(Dataset):
    """Several sources by weights, exactly: every block of windows holds the same number of each, in shuffled order.

    An epoch ends when each source has been seen whole.
    """

    def __init__(self, sources: Sequence[Dataset], weights: Sequence[float], *, seed: int):
        self._sources = list(sources)
        self._seed = seed
        self._ends = np.cumsum(block_counts(weights)).tolist()
        self._block = self._ends[-1]
        self.windows_per_epoch = self._until_all(source.windows_per_epoch for source in self._sources)

    @property
    def windows_per_pass(self) -> int:
        return self._until_all(source.windows_per_pass for source in self._sources)

    def _until_all(self, windows: Iterable[int]) -> int:
        """Windows, in whole blocks, until each source has given so many."""
        counts = np.diff([0, *self._ends]).tolist()
        return self._block * max(-(-wanted // count) for wanted, count in zip(windows, counts, strict=True))

    def place(self, index: int) -> WindowSpan:
        block, slot = divmod(index, self._block)
        slot = permute(slot, self._block, key=key_of(self._seed, _MIX, block))
        number = bisect.bisect_right(self._ends, slot)
        first = self._ends[number - 1] if number else 0
        return self._sources[number].place(block * (self._ends[number] - first) + slot - first)


def block_counts(weights: Sequence[float]) -> list[int]:
    """How many windows of each source a block holds: [3, 7] for 0.3 and 0.7. The smallest of the most exact blocks."""
    shares = np.array(weights) / sum(weights)
    if shares.min() * _MAX_BLOCK < 1:
        raise UserError(
            f"dataset: the weights {list(weights)} are too unequal; the smallest may be 1/1000 of their sum"
        )
    counts = np.rint(shares * np.arange(1, _MAX_BLOCK + 1)[:, None])
    errors = np.abs(counts / counts.sum(axis=1, keepdims=True).clip(1) - shares).max(axis=1)
    errors[counts.min(axis=1) < 1] = 1
    return counts[errors.round(9).argmin()].astype(int).tolist()
