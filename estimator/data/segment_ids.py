"""Windows in which a token does not see all before it: cut into shorter contexts, or at the end of each document.

The shapes stay: a batch gets "segments", whose numbers say which tokens belong together, and the model
attends within a segment and counts positions from its first token.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from estimator.data.token_stream import Dataset, WindowSpan
from estimator.errors import UserError
from estimator.hashing import key_of

_SHORTER = 6  # purpose of a hash, another than those of the windows


def shorter_contexts(n_ctx: int, shortest: int | None) -> list[int]:
    """shortest, twice as much, and so on, as long as it is below n_ctx."""
    if shortest is None:
        return []
    if shortest >= n_ctx:
        raise UserError(f"n_ctx_min: {shortest} is not below n_ctx, {n_ctx}; make it smaller, or leave it out")
    doublings = range((n_ctx - 1).bit_length())
    return [shortest << doubling for doubling in doublings if shortest << doubling < n_ctx]


class Segmented(Dataset):
    """The windows of a source, or of an evaluation, with segments.

    contexts: every second window, drawn by its number, is cut into contexts of one of these lengths; none if empty.
    end_of_text: a segment ends after this id; None lets them go over it.
    """

    def __init__(self, source: Any, *, contexts: Sequence[int] = (), end_of_text: int | None, seed: int = 0):
        self._source = source
        self._contexts = contexts
        self._end_of_text = end_of_text
        self._seed = seed
        if isinstance(source, Dataset):
            self.windows_per_epoch = source.windows_per_epoch

    @property
    def windows_per_pass(self) -> int:
        return self._source.windows_per_pass

    def __len__(self) -> int:
        return len(self._source)

    def place(self, index: int) -> WindowSpan:
        return self._source.place(index)

    def documents(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Those of the source."""
        return self._source.documents(index)

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """What the source gives, and "segments" int32 [indices, n_ctx + 1], which never decrease in a row.

        Where there are weights, that of the first token of a segment becomes 0: nothing that tells of it is seen.
        """
        batch = self._source.batch(indices)
        tokens = batch["tokens"]
        begins = np.zeros(tokens.shape, bool)
        if self._end_of_text is not None:
            begins[:, 1:] = tokens[:, :-1] == self._end_of_text
        for row, index in enumerate(indices):
            if length := self._context(index):
                begins[row, length::length] = True
        if "weights" in batch:
            batch["weights"] = np.where(begins[:, 1:], np.float32(0), batch["weights"])
        return batch | {"segments": begins.cumsum(axis=1, dtype=np.int32)}

    def _context(self, index: int) -> int | None:
        """The length of the contexts of a window, None where it is whole."""
        key = key_of(self._seed, _SHORTER, index)
        return self._contexts[(key >> 1) % len(self._contexts)] if self._contexts and key & 1 else None
