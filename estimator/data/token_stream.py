"""Windows of tokens by number: what an input function hands out is computed from the number alone.

`source[i]` is int32 [n_ctx + 1] for every i >= 0. There is no iterator and no state: any window of any epoch is found
directly, on any host. Knows shards and tokens, but no settings.
"""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from estimator.data.length_check import too_short
from estimator.hashing import key_of, permute, shuffled
from estimator.shards.shard import RecordSpan, Shard, decode

_DOCUMENTS, _WINDOWS, _ROTATION = range(3)  # purposes, so that no two choices share their hash
_CHUNK = 1 << 16
_TOGETHER = 16  # windows decoded together; more would not fit into the processor's cache


# Documents.


class Origin(NamedTuple):
    """Tokens by their place on disk: `count` ids of a document, by its number in the shard `path`, from `start` on."""

    path: Path
    document: int
    start: int
    count: int


class Documents:
    """Documents of several shards, numbered from 0: all of a shard, or those selected.

    selected: of each shard the numbers of its documents, None for all. parts: of a document, by its number here, the
    tokens [start, stop) that alone belong to it.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        selected: Sequence[np.ndarray | None] | None = None,
        parts: Mapping[int, tuple[int, int]] | None = None,
    ):
        self.shards, self.files = list(shards), [str(shard.path) for shard in shards]  # files: as messages name them
        self.parts = dict(parts or {})
        self.selected = list(selected) if selected is not None else [None] * len(self.shards)
        sizes = [len(s) if of is None else len(of) for s, of in zip(self.shards, self.selected, strict=True)]
        self._firsts = np.cumsum([0, *sizes]).tolist()
        self.total_tokens = int(self.lengths().sum(dtype=np.int64))

    def __len__(self) -> int:
        return self._firsts[-1]

    def require_window(self, tokens: int, n_ctx: int) -> None:
        """Raises UserError where these documents, of so many tokens together, do not make a window."""
        if tokens < n_ctx + 1:
            raise too_short(tokens, n_ctx, files=self.files, shards=self.shards, kept=self.total_tokens)

    def lengths(self) -> np.ndarray:
        """uint32 [documents]: tokens of each, made at each call."""
        lengths = np.empty(len(self), np.uint32)
        for number, (shard, selected) in enumerate(zip(self.shards, self.selected, strict=True)):
            part = lengths[self._firsts[number] : self._firsts[number + 1]]
            if selected is None:
                part[:] = shard.token_counts
            else:
                np.take(shard.token_counts, selected, out=part, mode="clip")
        for number, (start, stop) in self.parts.items():
            lengths[number] = stop - start
        return lengths

    def span(self, document: int, start: int, stop: int) -> RecordSpan:
        """Some ids of a document, to be decoded."""
        if document in self.parts:
            first, last = self.parts[document]
            start, stop = first + start, min(first + stop, last)
        shard, number = self._found(document)
        return shard.span(number, start, stop)

    def origin(self, document: int, start: int, stop: int) -> Origin:
        """The place of what `span` reads."""
        shard, number = self._found(document)
        return Origin(shard.path, number, start + self.parts.get(document, (0, 0))[0], stop - start)

    def _found(self, document: int) -> tuple[Shard, int]:
        """The shard of a document, and its number there."""
        place = bisect.bisect_right(self._firsts, document) - 1
        number, selected = document - self._firsts[place], self.selected[place]
        return self.shards[place], number if selected is None else int(selected[number])


class TokenStream:
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
        self.end_of_text = end_of_text
        self.total = int(self._ends[-1]) if len(lengths) else 0

    def start_of(self, place: int) -> int:
        """Position of the first token of the document at a place of the order; places continue after the last."""
        rounds, place = divmod(place, len(self._ends))
        return rounds * self.total + (int(self._ends[place - 1]) if place else 0)

    def places_within(self, position: int) -> int:
        """How many documents, end-of-text included, end at or before a position."""
        rounds, position = divmod(position, self.total)
        return rounds * len(self._ends) + int(np.searchsorted(self._ends, position, side="right"))

    def documents(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number, in this order, and length without end-of-text of the document at each position below total."""
        places = self._ends.searchsorted(positions, side="right")
        return places, np.diff(self._ends, prepend=0)[places] - 1

    def spans(self, start: int, count: int) -> Iterator[tuple[int, RecordSpan]]:
        """The parts of documents among the `count` tokens from a position on, around the circle, and where they are."""
        start %= self.total
        place = int(self._ends.searchsorted(start, side="right"))
        offset = start - self.start_of(place)
        done = 0
        while done < count:
            document = place if self._order is None else int(self._order[place])
            span = self._documents.span(document, offset, offset + count - done)
            if span.count:
                yield done, span
            done += span.count + 1
            place, offset = (place + 1) % len(self._ends), 0

    def origins(self, start: int, count: int) -> list[Origin]:
        """The places of what `spans` reads."""
        found, place = [], self.places_within(start)
        while count > 0:
            document = place % len(self._ends) if self._order is None else int(self._order[place % len(self._ends)])
            offset = start - self.start_of(place)
            size = min(self.start_of(place + 1) - 1 - start, count)  # without end-of-text
            if size:
                found.append(self._documents.origin(document, offset, offset + size))
            start, count, place = start + size + 1, count - size - 1, place + 1
        return found


class WindowSpan(NamedTuple):
    """The window of `count` tokens that begins at a position of a stream."""

    stream: TokenStream
    start: int
    count: int


def read(places: Sequence[WindowSpan]) -> np.ndarray:
    """int32 [places, count]: windows of the same length."""
    windows = np.empty((len(places), places[0].count), np.int32)
    for first in range(0, len(places), _TOGETHER):
        targets, spans = [], []
        for number, (stream, start, count) in enumerate(places[first : first + _TOGETHER], first):
            windows[number] = stream.end_of_text  # and its tokens overwrite this
            for offset, span in stream.spans(start, count):
                targets.append(windows[number, offset : offset + span.count])
                spans.append(span)
        for target, ids in zip(targets, decode(spans), strict=True):
            target[:] = ids
    return windows


class ShuffledDataset:
    """The streams of all epochs: documents are reshuffled in each. The current one is cached."""

    def __init__(self, documents: Documents, *, end_of_text: int, seed: int):
        self.documents = documents
        self.total = documents.total_tokens + len(documents)
        self._end_of_text = end_of_text
        self._seed = seed
        self._kept: tuple[int, TokenStream] | None = None

    def epoch(self, number: int) -> TokenStream:
        kept = self._kept  # taken once: other threads may replace it
        if kept is None or kept[0] != number:
            self._kept = kept = None  # its memory is free before the next one takes its own
            order = shuffled(len(self.documents), key=key_of(self._seed, _DOCUMENTS, number))
            kept = (number, TokenStream(self.documents, end_of_text=self._end_of_text, order=order))
            self._kept = kept
        return kept[1]


# Sources for training.


class Dataset:
    """A function of a number; `windows_per_epoch` of them go once through the documents. notes: for the console."""

    windows_per_epoch: int
    notes: Sequence[str] = ()

    @property
    def windows_per_pass(self) -> int:
        """Windows with as many targets as the documents have tokens: what an epoch means to users."""
        return self.windows_per_epoch

    def place(self, index: int) -> WindowSpan:
        """Where the window of a number is, for any number from 0 on."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> np.ndarray:
        """int32 [n_ctx + 1]"""
        return read([self.place(index)])[0]

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [indices, n_ctx + 1]}, and "weights" and "segments" where the windows have them."""
        return {"tokens": read([self.place(index) for index in indices])}

    def origins(self, index: int) -> list[Origin]:
        """The documents, or parts of them, in the window of a number."""
        stream, start, count = self.place(index)
        return stream.origins(start, count)


class PackedDataset(Dataset):
    """Every token once: the shuffled documents, joined by end-of-text, are cut into windows, visited in shuffled order.

    A window's last token is the next one's first, so that each token is predicted once in an epoch. The circle is cut
    at another place in each epoch; a remainder shorter than a window is dropped.
    """

    def __init__(self, documents: Documents, *, n_ctx: int, end_of_text: int, seed: int):
        self._streams = ShuffledDataset(documents, end_of_text=end_of_text, seed=seed)
        self._n_ctx, self._seed = n_ctx, seed
        documents.require_window(self._streams.total, n_ctx)
        self.windows_per_epoch = self._streams.total // n_ctx

    def place(self, index: int) -> WindowSpan:
        epoch, window = divmod(index, self.windows_per_epoch)
        window = permute(window, self.windows_per_epoch, key=key_of(self._seed, _WINDOWS, epoch))
        rotation = key_of(self._seed, _ROTATION, epoch) % self._streams.total
        return WindowSpan(self._streams.epoch(epoch), rotation + window * self._n_ctx, self._n_ctx + 1)


# Evaluation.


class Window(NamedTuple):
    """tokens: int32 [n_ctx + 1], padded with end-of-text; targets: how many of tokens[1:] are text."""

    tokens: np.ndarray
    targets: int


class EvaluationWindows:
    """A fixed set: the documents in the order of the files, joined by end-of-text, in windows, each token once."""

    def __init__(self, documents: Documents, *, n_ctx: int, end_of_text: int):
        self._stream = TokenStream(documents, end_of_text=end_of_text)
        self._n_ctx = n_ctx
        self._end_of_text = end_of_text

    def __len__(self) -> int:
        return -(-(self._stream.total - 1) // self._n_ctx)

    def __getitem__(self, index: int) -> Window:
        start = index * self._n_ctx
        targets = min(self._n_ctx, self._stream.total - 1 - start)
        tokens = np.full(self._n_ctx + 1, self._end_of_text, np.int32)
        tokens[: targets + 1] = read([WindowSpan(self._stream, start, targets + 1)])[0]
        return Window(tokens, targets)

    def documents(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Number and length of the document of each target of a window: int64 [n_ctx], any where it is padded."""
        targets = index * self._n_ctx + np.arange(1, self._n_ctx + 1)
        return self._stream.documents(np.minimum(targets, self._stream.total - 1))

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [indices, n_ctx + 1], "weights": float32 [indices, n_ctx], 0 beyond the text}"""
        tokens, targets = zip(*(self[index] for index in indices), strict=True)
        weights = np.arange(self._n_ctx) < np.array(targets)[:, None]
        return {"tokens": np.stack(tokens), "weights": weights.astype(np.float32)}
