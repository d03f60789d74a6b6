"""Windows of several conversations each, none of which sees another: packed by their lengths alone.

Which lengths share a window is the same in every epoch, so that any window of any epoch is found directly; which
conversations of these lengths they are, and the order of the windows, are reshuffled. Conversations longer than a
window are cut between a reply and the next message. The ids determine the loss weights.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from estimator.data.token_stream import Dataset, Documents, Origin
from estimator.errors import UserError
from estimator.hashing import key_of, permute, shuffled
from estimator.quantities import numbered
from estimator.shards.shard import decode

_PIECES, _ORDER = 16, 17  # purposes of shuffles, others than those of estimator/data/token_stream.py
_PROBE = 100  # conversations looked at before the first step
Loss = Literal["replies", "all"]
Ranges = tuple[tuple[int, int], ...]


class ChatTokens(NamedTuple):
    """Ids of the template: end-of-text before a conversation, a header before each message, `end` after it."""

    end_of_text: int
    system: int
    user: int
    assistant: int
    end: int


class Pieces:
    """Conversations, and those longer than a window in several parts, each with the system message at its head."""

    def __init__(self, documents: Documents, *, room: int, tokens: ChatTokens):
        """room: tokens that a part may have."""
        lengths = documents.lengths().astype(np.int64)
        whole, long = np.flatnonzero(lengths <= room), np.flatnonzero(lengths > room)
        self._documents = documents
        self._ranges: dict[int, Ranges] = {}  # of the parts, by their numbers
        self.cut = len(long)
        self.left_out = 0  # tokens
        origins: list[int] = []
        for document in long.tolist():
            ids = decode([documents.span(document, 0, int(lengths[document]))])[0]
            missing = np.ones(len(ids), bool)
            for ranges in cut(ids, room=room, tokens=tokens):
                self._ranges[len(whole) + len(origins)] = ranges
                origins.append(document)
                for start, stop in ranges:
                    missing[start:stop] = False
            self.left_out += int(missing.sum())
        sizes = [sum(stop - start for start, stop in ranges) for ranges in self._ranges.values()]
        self._document = np.concatenate([whole, np.array(origins, np.int64)])
        self.lengths = np.concatenate([lengths[whole], np.array(sizes, np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, pieces: Sequence[int]) -> list[np.ndarray]:
        """int32: the ids of each."""
        ranges = [self._ranges.get(piece, ((0, int(self.lengths[piece])),)) for piece in pieces]
        spans = [
            self._documents.span(int(self._document[piece]), start, stop)
            for piece, each in zip(pieces, ranges, strict=True)
            for start, stop in each
        ]
        parts = iter(decode(spans))
        return [np.concatenate([next(parts) for _ in each]) for each in ranges]

    def origins(self, piece: int) -> list[Origin]:
        """The places of its tokens."""
        document = int(self._document[piece])
        ranges = self._ranges.get(piece, ((0, int(self.lengths[piece])),))
        return [self._documents.origin(document, start, stop) for start, stop in ranges]


class Exchange(NamedTuple):
    """A prompt, from `start`, and the replies to it, from `reply` to `stop`."""

    start: int
    reply: int
    stop: int


def cut(ids: np.ndarray, *, room: int, tokens: ChatTokens) -> list[Ranges]:
    """Parts of at most `room` tokens of a conversation, each of which has a reply, as ranges of its ids.

    A part begins with the leading system messages, unless they take more than half of the room, and continues with as
    many exchanges as fit. One that alone is too long loses the beginning of its prompt, as long as that has half of
    the room, and then the end of the replies.
    """
    starts = np.isin(ids, (tokens.system, tokens.user, tokens.assistant)).nonzero()[0].tolist()
    first = next((start for start in starts if ids[start] != tokens.system), len(ids))
    head: Ranges = ((0, first),) if 0 < first <= room // 2 else ()
    room -= first if head else 0
    parts: list[Ranges] = []
    begin = first
    for exchange in _exchanges(ids, [start for start in starts if start >= first], tokens):
        if exchange.stop - begin > room:
            if begin < exchange.start:
                parts.append(((begin, exchange.start),))
            begin = exchange.start
        if exchange.stop - begin > room:
            parts.append(_shortened(exchange, starts, room))
            begin = exchange.stop
    if begin < len(ids):
        parts.append(((begin, len(ids)),))
    return [(*head, *part) for part in parts if any((ids[low:high] == tokens.assistant).any() for low, high in part)]


def _exchanges(ids: np.ndarray, starts: list[int], tokens: ChatTokens) -> list[Exchange]:
    exchanges: list[Exchange] = []
    for start, stop in itertools.pairwise([*starts, len(ids)]):
        is_reply = ids[start] == tokens.assistant
        last = exchanges[-1] if exchanges else None
        if last is None or (last.reply < last.stop and not is_reply):
            exchanges.append(Exchange(start, start if is_reply else stop, stop))
        else:
            reply = last.reply if last.reply < last.stop else start if is_reply else stop
            exchanges[-1] = Exchange(last.start, reply, stop)
    return exchanges


def _shortened(exchange: Exchange, starts: list[int], room: int) -> Ranges:
    """The part of an exchange that fits: the end of the prompt, with its header, and the first replies."""
    start, reply, stop = exchange
    kept = min(stop - reply, max(room - (reply - start), room - room // 2))
    asked = room - kept
    if reply - start <= asked:
        return ((start, reply + kept),)
    begin = reply - asked + 1
    header = starts[bisect.bisect_right(starts, begin) - 1]
    return ((header, header + 1), (begin, reply + kept)) if header < begin else ((begin, reply + kept),)


def best_fit(lengths: np.ndarray, *, capacity: int) -> np.ndarray:
    """The bin of each item, int64, items being in descending order: the fullest in which it fits (Johnson 1973)."""
    bins = np.empty(len(lengths), np.int64)
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: some bin has room for exactly r more
    count = 0
    for item, length in enumerate(lengths.tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, number, count = capacity, count, count + 1
        bins[item] = number
        by_room[room - length].append(number)
        rooms |= 1 << (room - length)
    return bins


class ChatWindows(Dataset):
    """Batches with "tokens", "weights" (0 for tokens without loss) and "segments" (the conversation of each token).

    seed: of the shuffles; None keeps the order, for evaluation. Each conversation has end-of-text before it.
    """

    def __init__(self, documents: Documents, *, n_ctx: int, tokens: ChatTokens, loss: Loss, seed: int | None):
        self._pieces = Pieces(documents, room=n_ctx, tokens=tokens)
        if not len(self._pieces) or not _has_replies(self._pieces, tokens):
            raise UserError(
                f"{documents.files[0]}: no conversation with a reply of the assistant in n_ctx = {n_ctx} tokens; "
                "shards of chats are made by datasets/encode.py --chat, or name the files of the chats in data_path"
            )
        self._n_ctx = n_ctx
        self._tokens = tokens
        self._loss: Loss = loss
        self._seed = seed
        self._sizes = self._pieces.lengths + 1
        bins = best_fit(-np.sort(-self._sizes), capacity=n_ctx + 1)
        self._ranks = np.argsort(bins, kind="stable")  # of the pieces from the longest to the shortest, by window
        self._ends = np.cumsum(np.bincount(bins)).tolist()
        self.windows_per_epoch = len(self._ends)
        self._kept: tuple[int, np.ndarray] | None = None
        self.notes = [self._note()]

    def __len__(self) -> int:
        return self.windows_per_epoch

    def _note(self) -> str:
        """How the conversations fit."""
        pieces, share = self._pieces, 1 - self._sizes.sum() / (len(self) * (self._n_ctx + 1))
        conversations, windows = numbered(len(pieces), "conversation"), numbered(len(self), "window")
        parts = f"packing: {conversations} in {windows}, {share:.1%} padding"
        if pieces.cut:
            parts += f"; {pieces.cut:,} longer than n_ctx are cut, and {pieces.left_out:,} tokens of them left out"
        return parts

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """{"tokens", "segments": int32 [indices, n_ctx + 1], "weights": float32 [indices, n_ctx]}"""
        tokens = np.full((len(indices), self._n_ctx + 1), self._tokens.end_of_text, np.int32)
        segments = np.zeros_like(tokens)
        filled = np.zeros((len(indices), 1), np.int64)
        for row, index in enumerate(indices):
            end = number = 0
            for number, ids in enumerate(self._pieces.tokens(self._window(index)), start=1):
                tokens[row, end + 1 : end + 1 + len(ids)] = ids
                segments[row, end : end + 1 + len(ids)] = number
                end += 1 + len(ids)
            segments[row, end:] = number + 1
            filled[row] = end
        targets = (np.arange(1, self._n_ctx + 1) < filled) & (segments[:, 1:] == segments[:, :-1])
        if self._loss == "replies":
            targets &= replies(tokens, self._tokens)
        return {"tokens": tokens, "segments": segments, "weights": targets.astype(np.float32)}

    def documents(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Number and length in tokens of the conversation, or of the piece of one, of each target: int64 [n_ctx]."""
        segments = self.batch([index])["segments"][0].astype(np.int64)
        return index * (self._n_ctx + 2) + segments[1:], np.bincount(segments)[segments[1:]] - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.batch([index])["tokens"][0]

    def origins(self, index: int) -> list[Origin]:
        return [origin for piece in self._window(index) for origin in self._pieces.origins(piece)]

    def _window(self, index: int) -> list[int]:
        """The pieces of a window."""
        epoch, window = divmod(index, len(self))
        if self._seed is not None:
            window = permute(window, len(self), key=key_of(self._seed, _ORDER, epoch))
        first = self._ends[window - 1] if window else 0
        return self._order(epoch)[self._ranks[first : self._ends[window]]].tolist()

    def _order(self, epoch: int) -> np.ndarray:
        """The pieces of an epoch from the longest to the shortest, equal ones shuffled. The one in use is kept."""
        kept = self._kept  # taken once: other threads may replace it
        if kept is None or kept[0] != epoch:
            count, seed = len(self._pieces), self._seed
            order = np.arange(count) if seed is None else shuffled(count, key=key_of(seed, _PIECES, epoch))
            kept = (epoch, order[np.argsort(-self._sizes[order], kind="stable")])
            self._kept = kept
        return kept[1]


def replies(tokens: np.ndarray, ids: ChatTokens) -> np.ndarray:
    """bool [..., T] of [..., T + 1]: the targets that are what the assistant says, and the end of it."""
    special = np.isin(tokens, ids)
    places = np.maximum.accumulate(np.where(special, np.arange(tokens.shape[-1]), 0), axis=-1)
    header = np.take_along_axis(tokens, places[..., :-1], axis=-1)  # the last special token before each target
    return (header == ids.assistant) & (~special[..., 1:] | (tokens[..., 1:] == ids.end))


def _has_replies(pieces: Pieces, tokens: ChatTokens) -> bool:
    return any((ids == tokens.assistant).any() for ids in pieces.tokens(range(min(len(pieces), _PROBE))))
