"""Log-likelihoods of continuations, and the accuracies and perplexities that follow from them.

Tokens are those of context and continuation encoded as one text, as in lm-evaluation-harness (TemplateLM): white space
at the end of a context belongs to the continuation, and where a token reaches over the border the context is encoded
separately.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from estimator.errors import UserError
from estimator.evaluation.perplexity import exponential
from estimator.evaluation.scorer import Scorer
from estimator.evaluation.tasks import Item
from estimator.evaluation.windows import blocks, cut
from estimator.tokenization.text_decoder import start_of_document
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import utf8


class Request(NamedTuple):
    """tokens: int32 [n], of which those from `first` on are the continuation."""

    tokens: np.ndarray
    first: int


class Result(NamedTuple):
    """Of a continuation: the sum of its log-likelihoods in nats, whether all its tokens are the likeliest ones, and
    whether the last is; how many tokens it has; whether its context was cut to fit."""

    logprob: float
    is_greedy: bool
    is_last_greedy: bool
    n_tokens: int
    is_truncated: bool


def encoded(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Request]:
    """The tokens of (context, continuation) pairs; an empty context is end-of-text.

    Raises UserError where the vocabulary has none, and for a continuation without tokens.
    """
    begin = start_of_document(tokenizer)
    moved = [(context.rstrip(), context[len(context.rstrip()) :] + rest) for context, rest in pairs]
    contexts = list(dict.fromkeys(context for context, _ in moved))
    tokens = dict(zip(contexts, tokenizer.encode_batch(contexts), strict=True))
    wholes = tokenizer.encode_batch([context + rest for context, rest in moved])
    requests = []
    for (context, rest), whole in zip(moved, wholes, strict=True):
        before = tokens[context]
        continuation = whole[len(before) :]
        if not len(continuation):  # the last token reaches over the border
            continuation = np.array(tokenizer.encode(rest), np.int32)
        front = before if len(before) else np.array(begin, np.int32)
        if not len(front):
            raise UserError("an item has no context, and the vocabulary has no end-of-text to stand in its place")
        if not len(continuation):
            raise UserError(
                f"after {context[-40:]!r} the text {rest[:40]!r} has no tokens in this vocabulary, so there is nothing "
                "to score; leave the item out"
            )
        requests.append(Request(np.concatenate([front, continuation]).astype(np.int32), len(front)))
    return requests


def results(scorer: Scorer, requests: Sequence[Request]) -> list[Result]:
    """Scores each request given the last n_ctx tokens before its own last; longer continuations in several windows."""
    spans = [blocks(len(request.tokens), context=scorer.n_ctx, first=request.first) for request in requests]
    pairs = zip(requests, spans, strict=True)
    scores = scorer(window for request, own in pairs for window in cut(request.tokens, own))
    found = []
    for own in spans:
        parts = [next(scores) for _ in own]
        logprobs = np.concatenate([part.logprobs for part in parts]).astype(np.float64)
        is_greedy = np.concatenate([part.is_greedy for part in parts])
        is_truncated = own[0].start > 0 or len(own) > 1
        found.append(
            Result(float(logprobs.sum()), bool(is_greedy.all()), bool(is_greedy[-1]), len(logprobs), is_truncated)
        )
    return found


def of_targets(found: Sequence[Result]) -> dict[str, Any]:
    """Accuracy of whole targets and of their last tokens, and perplexity of a target (e to the mean of the sums)."""
    logprobs = np.array([result.logprob for result in found])
    perplexity = exponential(-float(logprobs.mean()))
    metrics = {
        **_share("acc", [result.is_greedy for result in found]),
        **_share("acc_last_token", [result.is_last_greedy for result in found]),
        "perplexity": perplexity,
    }
    if len(found) > 1:  # by the delta method
        error = perplexity * float(logprobs.std(ddof=1)) / math.sqrt(len(found))
        metrics["perplexity_stderr"] = min(error, sys.float_info.max)  # JSON has no infinity
    return metrics | _counts(found, [result.is_truncated for result in found])


def of_choices(items: Sequence[Item], found: Sequence[Result]) -> dict[str, Any]:
    """Accuracies of the choice with the highest log-likelihood; of equal ones the first counts.

    acc: sums. acc_norm, acc_bytes, acc_tokens: divided by the characters, UTF-8 bytes or tokens of the choice.
    """
    names = ("acc", "acc_norm", "acc_bytes", "acc_tokens")
    is_right: dict[str, list[bool]] = {name: [] for name in names}
    is_truncated = []
    rest = iter(found)
    for item in items:
        own = [next(rest) for _ in item.requests]
        is_truncated.append(any(result.is_truncated for result in own))
        sums = np.array([result.logprob for result in own])
        characters = [max(1, len(text)) for text in item.texts]
        n_bytes = [max(1, len(utf8(text))) for text in item.texts]
        for name, sizes in zip(names, (1, characters, n_bytes, [result.n_tokens for result in own]), strict=True):
            is_right[name].append(int(np.argmax(sums / np.array(sizes))) in (item.gold, *item.also_gold))
    metrics = {key: value for name in names for key, value in _share(name, is_right[name]).items()}
    return metrics | _counts(items, is_truncated)


def _share(name: str, values: Sequence[bool]) -> dict[str, float]:
    share = {name: float(np.mean(values))}
    if len(values) > 1:
        share[f"{name}_stderr"] = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return share


def _counts(items: Sequence[Any], is_truncated: Sequence[bool]) -> dict[str, int]:
    return {"items": len(items), "truncated": sum(is_truncated)}
