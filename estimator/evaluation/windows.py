"""Windows over a sequence of tokens: each token is scored once, in one window, given those before it in that window."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from estimator.errors import UserError


class Span(NamedTuple):
    """Tokens [start, stop) are a window; its model inputs are all but the last. Tokens [scored, stop) are scored."""

    start: int
    stop: int
    scored: int


class Window(NamedTuple):
    """tokens: int32 [n]. scored: number of the first token to score, at least 1. segments: int32 [n], or None."""

    tokens: np.ndarray
    scored: int = 1
    segments: np.ndarray | None = None


def blocks(n_tokens: int, *, context: int, first: int = 1) -> list[Span]:
    """Disjoint blocks of up to `context` scored tokens from token `first` on, each with all the context that fits.

    A window has at most `context` inputs. These are the windows of lm-evaluation-harness: of a request (the context is
    cut from the left) and of a rolling log-likelihood, whose last block is moved left to a full window.
    """
    stops = [*range(first + context, n_tokens, context), n_tokens] if first < n_tokens else []
    starts = [first, *stops[:-1]]
    return [Span(max(0, stop - 1 - context), stop, scored) for scored, stop in zip(starts, stops, strict=bool(stops))]


def sliding(n_tokens: int, *, context: int, stride: int) -> list[Span]:
    """Windows of `context` inputs that begin at multiples of `stride`; each scores the tokens that are new in it.

    With a stride of `context` these are Megatron-LM's disjoint windows, with less its overlapping evaluation. The
    recipe in the documentation of transformers is the same with a context of its `max_length` - 1. Raises UserError
    for a stride outside 1 to `context`.
    """
    if not 1 <= stride <= context:
        raise UserError(f"--stride {stride}: write a number from 1 to {context}, the context")
    spans, scored = [], 1
    for start in range(0, n_tokens, stride):
        stop = min(start + context + 1, n_tokens)
        if scored < stop:
            spans.append(Span(start, stop, scored))
        scored = stop
        if stop == n_tokens:
            break
    return spans


def cut(tokens: np.ndarray, spans: list[Span]) -> Iterator[Window]:
    """The windows of these spans of a sequence."""
    for start, stop, scored in spans:
        yield Window(tokens[start:stop], scored - start)
