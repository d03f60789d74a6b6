"""Windows that are drawn: one of every few documents, as ConnorJL's models were trained, or anywhere in the text.

All are functions of their number alone, as those of `estimator/data/token_stream.py` are.
"""

import numpy as np

from estimator.data.text_length import check_length
from estimator.data.token_stream import Dataset, Documents, ShuffledDataset, TokenStream, WindowSpan, read
from estimator.hashing import key_of

_START, _ANYWHERE = 3, 5  # purposes of hashes, others than those of estimator/data/token_stream.py


class StitchedWindows(Dataset):
    """One window of every `stitch` documents: these are joined by end-of-text, the window starts anywhere in them.

    When they are too short for a window, the documents that follow in the shuffled order are joined to them.
    """

    def __init__(self, documents: Documents, *, stitch: int, n_ctx: int, end_of_text: int, seed: int):
        self._streams = ShuffledDataset(documents, end_of_text=end_of_text, seed=seed)
        self._stitch = min(stitch, len(documents))
        self._n_ctx = n_ctx
        self._seed = seed
        check_length(documents, self._streams.total - 1, n_ctx)
        self.windows_per_epoch = len(documents) // self._stitch

    @property
    def windows_per_pass(self) -> int:
        """More than those of an epoch in the order of documents, where only a part of each group is in its window."""
        return max(1, self._streams.total // self._n_ctx)

    def place(self, index: int) -> WindowSpan:
        epoch, group = divmod(index, self.windows_per_epoch)
        stream = self._streams.epoch(epoch)
        first = group * self._stitch
        start = stream.start_of(first)
        # Without the end-of-text after the last document.
        length = stream.start_of(first + self._stitch) - 1 - start
        if length < self._n_ctx + 1:
            last = stream.places_within(start + self._n_ctx + 1)
            length = stream.start_of(last + 1) - 1 - start
        choices = length - self._n_ctx
        return WindowSpan(stream, start + key_of(self._seed, _START, epoch, group) % choices, self._n_ctx + 1)


class RandomWindows(Dataset):
    """Windows that begin at any token, all equally likely, drawn with replacement; an epoch is as many as packed."""

    def __init__(self, documents: Documents, *, n_ctx: int, end_of_text: int, seed: int):
        self._stream = TokenStream(documents, end_of_text=end_of_text)
        self._n_ctx = n_ctx
        self._seed = seed
        check_length(documents, self._stream.total, n_ctx)
        self.windows_per_epoch = self._stream.total // n_ctx

    def place(self, index: int) -> WindowSpan:
        return WindowSpan(self._stream, key_of(self._seed, _ANYWHERE, index) % self._stream.total, self._n_ctx + 1)


class SentenceWindows(RandomWindows):
    """Windows that begin with a sentence: with the next after a token that is drawn, all tokens being equally likely.

    ends: bool [n_vocab], the ids that end a sentence. Where none is among REACH tokens, the window begins where it was
    drawn.
    """

    REACH = 256

    def __init__(self, documents: Documents, *, ends: np.ndarray, n_ctx: int, end_of_text: int, seed: int):
        super().__init__(documents, n_ctx=n_ctx, end_of_text=end_of_text, seed=seed)
        self._ends = ends

    def place(self, index: int) -> WindowSpan:
        place = super().place(index)
        found = self._ends[read([place._replace(count=self.REACH)])[0]].nonzero()[0]
        return place._replace(start=place.start + int(found[0]) + 1) if len(found) else place
