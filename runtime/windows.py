"""Windows of tokens by number: what an input function hands out is computed from the number alone.

`source[i]` is int32 [n_ctx + 1] for every i >= 0. There is no iterator and no state: any window of any epoch is found
at once, on any host. Shuffles come from a hash of (seed, purpose, epoch, index) and not from a random generator, so
that the order of the data never changes with the version of a library. Knows shards and tokens, nothing of settings.
"""

import bisect
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from runtime.errors import UserError
from runtime.tfrecord import Shard

Bits = Any  # a Python integer, or a uint64 array
_MASK = (1 << 64) - 1
_DOCUMENTS, _WINDOWS, _ROTATION, _START, _MIX = range(5)  # purposes, so that no two choices share their hash
_ROUNDS, _ROUND_KEY = 16, 0xD1342543DE82EF95  # so many make even a shuffle of five uniform
_CHUNK = 1 << 16
_NEIGHBOURS = 1 << 10
_MAX_BLOCK = 1000


class Source(Protocol):
    """A function of a number; `windows_per_epoch` of them go once through the documents."""

    @property
    def windows_per_epoch(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


# Hashes.


def splitmix64(value: Bits) -> Bits:
    """Mixes 64 bits so that every bit of the result depends on all of them (the finaliser of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit number for several."""
    key = 0
    for part in parts:
        key = splitmix64(key ^ (part & _MASK))
    return key


def permute(index: int, size: int, *, key: int) -> int:
    """Where a shuffle of 0 .. size - 1, chosen by the key, puts an index. The memory does not grow with the size."""
    first = index - index % _NEIGHBOURS
    return _neighbours(first, min(first + _NEIGHBOURS, size), size, key)[index - first]


@functools.lru_cache(maxsize=8)
def _neighbours(first: int, last: int, size: int, key: int) -> list[int]:
    """Indices are asked for one after the other: computed many at a time they take a hundredth of the time."""
    return _permuted(first, last, size, key).tolist()


def shuffled(size: int, *, key: int) -> np.ndarray:
    """uint32 [size]: all of `permute`."""
    order = np.empty(size, np.uint32)
    for first in range(0, size, _CHUNK):
        last = min(first + _CHUNK, size)
        order[first:last] = _permuted(first, last, size, key)
    return order


def _permuted(first: int, last: int, size: int, key: int) -> np.ndarray:
    part = _rounds(np.arange(first, last, dtype=np.uint64), size, key)
    while (outside := part >= size).any():
        part[outside] = _rounds(part[outside], size, key)
    return part


def _rounds(index: Bits, size: int, key: int) -> Bits:
    """A Feistel network over a grid of at least `size` places, hardly more: what falls outside goes through again."""
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    row, column = index // columns, index % columns
    for number in range(0, _ROUNDS, 2):
        row = (row + splitmix64(column ^ (key + number * _ROUND_KEY & _MASK)) % rows) % rows
        column = (column + splitmix64(row ^ (key + (number + 1) * _ROUND_KEY & _MASK)) % columns) % columns
    return row * columns + column


# Documents.


class Documents:
    """Documents of several shards, numbered from 0: all of a shard, or those selected."""

    def __init__(self, shards: Sequence[Shard], selected: Sequence[np.ndarray | None] | None = None):
        self.shards = list(shards)
        self._selected = list(selected) if selected is not None else [None] * len(self.shards)
        sizes = [len(s) if of is None else len(of) for s, of in zip(self.shards, self._selected, strict=True)]
        self._firsts = np.cumsum([0, *sizes]).tolist()
        self.total_tokens = int(self.lengths().sum(dtype=np.int64))

    def __len__(self) -> int:
        return self._firsts[-1]

    def lengths(self) -> np.ndarray:
        """uint32 [documents]: tokens of each, made at each call."""
        lengths = np.empty(len(self), np.uint32)
        for number, (shard, selected) in enumerate(zip(self.shards, self._selected, strict=True)):
            part = lengths[self._firsts[number] : self._firsts[number + 1]]
            if selected is None:
                part[:] = shard.token_counts
            else:
                np.take(shard.token_counts, selected, out=part, mode="clip")
        return lengths

    def tokens(self, document: int, start: int, stop: int) -> np.ndarray:
        """int32: some ids of a document."""
        shard = bisect.bisect_right(self._firsts, document) - 1
        document -= self._firsts[shard]
        selected = self._selected[shard]
        return self.shards[shard].tokens(document if selected is None else int(selected[document]), start, stop)


class Stream:
    """Documents in some order, each followed by end-of-text, as one circle of `total` tokens."""

    def __init__(self, documents: Documents, *, end_of_text: int, order: np.ndarray | None = None):
        lengths = documents.lengths()
        self._ends = np.empty(len(lengths), np.int64)
        for start in range(0, len(lengths), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._ends[part] = lengths[part if order is None else order[part]]
        self._ends += 1
        np.cumsum(self._ends, out=self._ends)
        self._documents = documents
        self._order = order
        self._end_of_text = end_of_text
        self.total = int(self._ends[-1]) if len(lengths) else 0

    def start_of(self, place: int) -> int:
        """Position of the first token of the document at a place of the order; the places go on after the last."""
        rounds, place = divmod(place, len(self._ends))
        return rounds * self.total + (int(self._ends[place - 1]) if place else 0)

    def places_within(self, position: int) -> int:
        """How many documents, end-of-text included, end at or before a position."""
        rounds, position = divmod(position, self.total)
        return rounds * len(self._ends) + int(np.searchsorted(self._ends, position, side="right"))

    def read(self, start: int, count: int) -> np.ndarray:
        """int32 [count]: the tokens from a position on, around the circle."""
        tokens = np.empty(count, np.int32)
        start %= self.total
        place = int(np.searchsorted(self._ends, start, side="right"))
        offset = start - self.start_of(place)
        done = 0
        while done < count:
            document = place if self._order is None else int(self._order[place])
            part = self._documents.tokens(document, offset, offset + count - done)
            tokens[done : done + len(part)] = part
            done += len(part)
            if done < count:
                tokens[done] = self._end_of_text
                done += 1
            place, offset = (place + 1) % len(self._ends), 0
        return tokens


class Shuffled:
    """The streams of all epochs: the documents are shuffled anew in each. The one in use is kept."""

    def __init__(self, documents: Documents, *, end_of_text: int, seed: int):
        self.documents = documents
        self.total = documents.total_tokens + len(documents)
        self._end_of_text = end_of_text
        self._seed = seed
        self._kept: tuple[int, Stream] | None = None

    def epoch(self, number: int) -> Stream:
        kept = self._kept  # taken once: other threads may replace it
        if kept is None or kept[0] != number:
            self._kept = kept = None  # its memory is free before the next one takes its own
            order = shuffled(len(self.documents), key=key_of(self._seed, _DOCUMENTS, number))
            kept = (number, Stream(self.documents, end_of_text=self._end_of_text, order=order))
            self._kept = kept
        return kept[1]


# Sources for training.


class Packed:
    """Every token once: the shuffled documents, joined by end-of-text, are cut into windows, visited in shuffled order.

    A window's last token is the next one's first, so that each token is predicted once in an epoch. The circle is cut
    at another place in each epoch; what is left over, less than a window, is left out.
    """

    def __init__(self, documents: Documents, *, n_ctx: int, end_of_text: int, seed: int):
        self._streams = Shuffled(documents, end_of_text=end_of_text, seed=seed)
        self._n_ctx = n_ctx
        self._seed = seed
        _check_length(self._streams.total, n_ctx)
        self.windows_per_epoch = self._streams.total // n_ctx

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, window = divmod(index, self.windows_per_epoch)
        window = permute(window, self.windows_per_epoch, key=key_of(self._seed, _WINDOWS, epoch))
        rotation = key_of(self._seed, _ROTATION, epoch) % self._streams.total
        return self._streams.epoch(epoch).read(rotation + window * self._n_ctx, self._n_ctx + 1)


class Stitched:
    """One window of every `stitch` documents: these are joined by end-of-text, the window starts anywhere in them.

    When they are too short for a window, the documents that follow in the shuffled order are joined to them.
    """

    def __init__(self, documents: Documents, *, stitch: int, n_ctx: int, end_of_text: int, seed: int):
        self._streams = Shuffled(documents, end_of_text=end_of_text, seed=seed)
        self._stitch = min(stitch, len(documents))
        self._n_ctx = n_ctx
        self._seed = seed
        _check_length(self._streams.total - 1, n_ctx)
        self.windows_per_epoch = len(documents) // self._stitch

    def __getitem__(self, index: int) -> np.ndarray:
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
        return stream.read(start + key_of(self._seed, _START, epoch, group) % choices, self._n_ctx + 1)


class Mixed:
    """Several sources by weights, exactly: every block of windows holds the same number of each, in shuffled order.

    An epoch ends when each source has been seen whole.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], *, seed: int):
        self._sources = list(sources)
        self._seed = seed
        self._ends = np.cumsum(block_counts(weights)).tolist()
        self._block = self._ends[-1]
        counts = np.diff([0, *self._ends]).tolist()
        epochs = [-(-s.windows_per_epoch // count) for s, count in zip(self._sources, counts, strict=True)]
        self.windows_per_epoch = max(epochs) * self._block

    def __getitem__(self, index: int) -> np.ndarray:
        block, slot = divmod(index, self._block)
        slot = permute(slot, self._block, key=key_of(self._seed, _MIX, block))
        number = bisect.bisect_right(self._ends, slot)
        first = self._ends[number - 1] if number else 0
        return self._sources[number][block * (self._ends[number] - first) + slot - first]


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


def _check_length(tokens: int, n_ctx: int) -> None:
    if tokens < n_ctx + 1:
        raise UserError(
            f"the training text has {tokens} tokens, less than one window of n_ctx + 1 = {n_ctx + 1}; "
            "add text or make n_ctx smaller"
        )


# Evaluation.


class Window(NamedTuple):
    """tokens: int32 [n_ctx + 1], padded with end-of-text; targets: how many of tokens[1:] are text."""

    tokens: np.ndarray
    targets: int


class EvaluationWindows:
    """A fixed set: the documents in the order of the files, joined by end-of-text, in windows, each token once."""

    def __init__(self, documents: Documents, *, n_ctx: int, end_of_text: int):
        self._stream = Stream(documents, end_of_text=end_of_text)
        self._n_ctx = n_ctx
        self._end_of_text = end_of_text

    def __len__(self) -> int:
        return -(-(self._stream.total - 1) // self._n_ctx)

    def __getitem__(self, index: int) -> Window:
        start = index * self._n_ctx
        targets = min(self._n_ctx, self._stream.total - 1 - start)
        tokens = np.full(self._n_ctx + 1, self._end_of_text, np.int32)
        tokens[: targets + 1] = self._stream.read(start, targets + 1)
        return Window(tokens, targets)
