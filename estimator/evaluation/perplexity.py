"""Exact losses of text: means over tokens, by position in the context, and by length of document.

All sums are float64 on the host, and no mean is taken of means. Tokens of one document are not independent, so standard
errors are those of a ratio estimator over documents (Cochran 1977, section 2.11).
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from estimator.data.stages import EvaluationSet
from estimator.evaluation.scorer import Scorer
from estimator.evaluation.windows import Span, Window, blocks, cut, sliding
from estimator.tokenization import special_text
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import utf8

FIRST_TOKENS = tuple(2**k for k in range(3, 21))  # loss_8, loss_16, ... as lopuhin/transformer-lm names them


class Text(NamedTuple):
    """A document to score.

    tokens: int32 [n], end-of-text in front if `begins`; otherwise the first one is not scored. n_words, n_bytes,
    n_characters: of the text that is scored, before it was de-tokenized.
    """

    tokens: np.ndarray
    n_words: int
    n_bytes: int
    n_characters: int
    begins: bool


def text_of(
    original: str,
    ids: np.ndarray,
    tokenizer: Tokenizer,
    *,
    begin: Sequence[int],
    special: Sequence[str],
    n_words: Callable[[str], int],
) -> Text:
    """The document with these ids, after `begin`, whose text before de-tokenization is `original`.

    special: names in the text that were read as special tokens, which have no bytes. A character belongs to the token
    in which it begins, so that the counts of all tokens add up to those of the text; a word does, too.
    """
    plain = special_text.without(original, special)
    unscored = special_text.bytes_of(tokenizer, [] if len(begin) else ids[:1].tolist())
    return Text(
        np.array([*begin, *ids], np.int32),
        max(0, n_words(plain) - bool(unscored)),
        max(0, len(utf8(plain)) - len(unscored)),
        max(0, len(plain) - sum(byte & 0xC0 != 0x80 for byte in unscored)),
        len(begin) > 0,
    )


class Losses:
    """Sums of the losses of scored tokens. n_ctx: the largest position."""

    def __init__(self, *, n_ctx: int):
        self._sums = np.zeros(n_ctx + 1)
        self._counts = np.zeros(n_ctx + 1)
        self._documents: dict[int, np.ndarray] = {}  # number -> float64 [2]: sum and count
        self._lengths: dict[int, int] = {}
        self.n_words = self.n_bytes = self.n_characters = 0

    def add(self, losses: np.ndarray, positions: np.ndarray, documents: np.ndarray, lengths: np.ndarray) -> None:
        """Adds tokens, all arrays [n].

        losses: in nats. positions: tokens before each in its window. documents, lengths: number of its document, and
        that document's length in tokens.
        """
        self._sums += np.bincount(positions, losses, len(self._sums))
        self._counts += np.bincount(positions, minlength=len(self._counts))
        numbers, firsts, places = np.unique(documents, return_index=True, return_inverse=True)
        sums = np.stack([np.bincount(places, losses), np.bincount(places)], axis=1)
        for number, first, pair in zip(numbers.tolist(), firsts.tolist(), sums, strict=True):
            self._documents[number] = self._documents.get(number, 0) + pair
            self._lengths[number] = int(lengths[first])

    @property
    def n_tokens(self) -> int:
        return int(self._counts.sum())

    @property
    def total(self) -> float:
        return float(self._sums.sum())

    def metrics(self) -> dict[str, Any]:
        """What the sums mean; entries that cannot be known are left out."""
        loss, n_tokens = self.total / self.n_tokens, self.n_tokens
        found: dict[str, Any] = {"loss": loss}
        if (error := self._standard_error()) is not None:
            found["loss_stderr"] = error
        found["perplexity"] = exponential(loss)
        for name, count in (("byte", self.n_bytes), ("character", self.n_characters)):
            if count:
                found[f"bits_per_{name}"] = self.total / (math.log(2) * count)
        if self.n_words:
            found["word_perplexity"] = exponential(self.total / self.n_words)
        counts = {"tokens": n_tokens, "words": self.n_words, "bytes": self.n_bytes, "characters": self.n_characters}
        found |= {name: count for name, count in counts.items() if count} | {"documents": len(self._documents)}
        found["loss_by_position"] = dict(self.by_position())
        found["loss_by_document_length"] = dict(self.by_length())
        for most in FIRST_TOKENS:
            if most < len(self._sums) and self._counts[most]:
                found[f"loss_{most}"] = float(self._sums[: most + 1].sum() / self._counts[: most + 1].sum())
        return found

    def by_position(self) -> Iterator[tuple[str, float]]:
        """Mean loss of the tokens with 1, 2, 3-4, 5-8, ... tokens before them in their window."""
        for low, high in _ranges(len(self._sums) - 1):
            if count := self._counts[low : high + 1].sum():
                yield _range_name(low, high), float(self._sums[low : high + 1].sum() / count)

    def by_length(self) -> Iterator[tuple[str, float]]:
        """Mean loss of the tokens of documents with 1, 2, 3-4, 5-8, ... tokens."""
        lengths = np.array([self._lengths[number] for number in self._documents])
        pairs = np.array(list(self._documents.values())).reshape(-1, 2)
        for low, high in _ranges(int(lengths.max(initial=0))):
            total, count = pairs[(low <= lengths) & (lengths <= high)].sum(axis=0)
            if count:
                yield _range_name(low, high), float(total / count)

    def _standard_error(self) -> float | None:
        """Of the mean loss, the documents being drawn at random; None for a single document."""
        if len(self._documents) < 2:
            return None
        sums, counts = np.array(list(self._documents.values())).T
        residuals = sums - sums.sum() / counts.sum() * counts
        return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(residuals).sum()) / counts.sum())


def exponential(loss: float) -> float:
    """e^loss; the largest finite numbers where that is none, because JSON has no infinity."""
    return math.exp(min(loss, 700.0))


def of_texts(scorer: Scorer, texts: Iterable[Text], *, context: int, stride: int | None) -> Losses:
    """Losses of documents, none of which sees another.

    context: most inputs of a window. stride: see `windows.sliding`; None is `windows.blocks`. Raises UserError as
    `sliding`.
    """
    losses = Losses(n_ctx=context)
    waiting: deque[tuple[int, int]] = deque()  # of each window in flight: its document and that one's length

    def windows() -> Iterator[Window]:
        for number, text in enumerate(texts):
            spans = spans_of(len(text.tokens), context=context, stride=stride)
            losses.n_words += text.n_words
            losses.n_bytes += text.n_bytes
            losses.n_characters += text.n_characters
            for window in cut(text.tokens, spans):
                waiting.append((number, len(text.tokens) - text.begins))
                yield window

    for window, scores in scorer.with_windows(windows()):
        number, length = waiting.popleft()
        positions = np.arange(window.scored, len(window.tokens))
        documents, lengths = np.full_like(positions, number), np.full_like(positions, length)
        losses.add(-scores.logprobs.astype(np.float64), positions, documents, lengths)
    return losses


def of_windows(
    scorer: Scorer, source: EvaluationSet, indices: Sequence[int], *, token_bytes: np.ndarray | None
) -> Losses:
    """Losses of the weighted targets of an evaluation's windows, as training computes their mean."""
    losses = Losses(n_ctx=scorer.n_ctx)
    rows: deque[tuple[int, np.ndarray, np.ndarray]] = deque()  # of windows in flight: index, weights, targets

    def windows() -> Iterator[Window]:
        for index in indices:
            batch = {name: value[0] for name, value in source.batch([index]).items()}
            rows.append((index, batch["weights"], batch["tokens"][1:]))
            yield Window(batch["tokens"], segments=batch.get("segments"))

    for window, scores in scorer.with_windows(windows()):
        index, weights, targets = rows.popleft()
        positions = np.arange(1, len(targets) + 1)
        if window.segments is not None:
            begins = np.flatnonzero(np.diff(window.segments, prepend=window.segments[0] - 1))
            positions -= begins[np.searchsorted(begins, positions, side="right") - 1]
        is_scored = weights > 0
        if token_bytes is not None:
            losses.n_bytes += int(token_bytes[targets[is_scored]].sum())
        numbers, lengths = source.documents(index)
        losses.add(
            -scores.logprobs[is_scored].astype(np.float64), *(a[is_scored] for a in (positions, numbers, lengths))
        )
    return losses


def spans_of(n_tokens: int, *, context: int, stride: int | None) -> list[Span]:
    """`sliding` windows if a stride is given, else `blocks`."""
    if stride is None:
        return blocks(n_tokens, context=context)
    return sliding(n_tokens, context=context, stride=stride)


def _ranges(most: int) -> Iterator[tuple[int, int]]:
    """(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), ... up to the one with `most`."""
    yield 0, 0
    low, high = 1, 1
    while low <= most:
        yield low, high
        low, high = high + 1, 2 * high


def _range_name(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
