"""Tokens: lm-evaluation-harness's tokenizer routes, POST /score and POST /next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from estimator.corpus.chat_template import jinja
from estimator.evaluation.windows import sliding
from estimator.tokenization import special_text
from estimator.tokenization.text_decoder import word_begins
from estimator.tokenization.vocab_files import utf8
from serving.api import state
from serving.api.errors import ApiError, Json
from serving.api.generate import Generation, Sample, finite
from serving.api.reply import finished, in_thread_if_large, require_context, require_places
from serving.api.schemas import DetokenizeBody, NextBody, ScoreBody, TokenizeBody
from serving.api.sse import while_connected
from serving.loaded import LoadedModel
from serving.registry import Lease
from serving.request import SamplingParams
from serving.text import TextDecoder, encode, start_of_document, token_text

router = APIRouter()


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """What lm-evaluation-harness asks of a server's tokenizer."""
    async with _used(request, model) as loaded:
        end = start_of_document(loaded.tokenizer)
        return Json({
            "eos_token": token_text(loaded.tokenizer, end[0]) if end else None,
            "bos_token": None,
            "chat_template": jinja(loaded.tokenizer) if loaded.template else None,
        })  # fmt: skip


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, request: Request) -> Response:
    """The ids of a text; names of special tokens are read as such."""
    async with _used(request, body.model) as loaded:
        encoded = await in_thread_if_large(request, lambda: loaded.tokenizer.encode(body.prompt, special=True))
        return Json({"tokens": encoded, "count": len(encoded), "max_model_len": loaded.engine.n_ctx})


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> Response:
    """The text of some ids."""
    async with _used(request, body.model) as loaded:
        unknown = [token for token in body.tokens if token >= loaded.tokenizer.n_vocab]
        if unknown:
            raise ApiError(400, f"tokens: no token has the id {unknown[0]}", param="tokens")
        return Json({"prompt": loaded.tokenizer.decode(body.tokens)})


@dataclass(frozen=True)
class Scored:
    """A token of a text that was scored. top: the likeliest tokens in its place, best first."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...]


@router.post("/score")
async def score(body: ScoreBody, request: Request) -> Response:
    """Log-probability (natural) of each token and word of a text, given all before it, from the start of a document.

    A text longer than the context is scored in windows: each token sees at least half of the context.
    """
    async with _used(request, body.model) as loaded:
        ids = await in_thread_if_large(request, lambda: loaded.tokenizer.encode(body.text, special=True))
        if not ids:
            raise ApiError(400, "text is empty; there is nothing to score", param="text")
        tokens = await while_connected(request, _scores(loaded, ids, body.top, request))
        total = math.fsum(token.logprob for token in tokens)
        unscored = ids[: len(ids) - len(tokens)]  # the first one, where no end-of-text comes before it
        plain = special_text.without(body.text, loaded.tokenizer.special_tokens)
        n_bytes = len(utf8(plain)) - len(special_text.bytes_of(loaded.tokenizer, unscored))
        return Json({
            "model": loaded.key,
            "system_fingerprint": loaded.fingerprint,
            "tokens": [_token(loaded, token) for token in tokens],
            "words": _words(tokens),
            "logprob": finite(total),
            "perplexity": math.exp(min(-total / len(tokens), 700)),
            "bits_per_byte": -finite(total) / math.log(2) / n_bytes if n_bytes > 0 else None,
        })  # fmt: skip


@router.post("/next")
async def next_tokens(body: NextBody, request: Request) -> Response:
    """The likeliest next tokens after a text, with their probabilities."""
    async with _used(request, body.model) as loaded:
        ids = await in_thread_if_large(request, lambda: encode(loaded.tokenizer, body.text))
        require_context(loaded, ids, param="text")
        params = SamplingParams(max_tokens=1, temperature=0, logprobs=body.top)
        generation = Generation(loaded, [Sample(ids, params)], owner=state.owner(request))
        answers = await while_connected(request, finished(state.of(request), loaded, generation))
        top = answers[0].tokens[0].top if answers[0].tokens else ()
        return Json({
            "model": loaded.key,
            "system_fingerprint": loaded.fingerprint,
            "next": [_alternative(loaded, token, logprob) for token, logprob in top],
        })  # fmt: skip


class _used:
    """`async with` a model, by key or the only one; the client may go away while it is loaded."""

    def __init__(self, request: Request, model: str | None):
        self._request, self._model = request, model

    async def __aenter__(self) -> LoadedModel:
        server = state.of(self._request)
        acquire = server.registry.acquire(server.pick(self._model))
        self._lease: Lease = await while_connected(self._request, acquire, discard=Lease.release)
        return self._lease.model

    async def __aexit__(self, *exception: object) -> None:
        self._lease.release()


async def _scores(model: LoadedModel, ids: Sequence[int], top: int, request: Request) -> list[Scored]:
    """Scores windows that overlap by half, the first after end-of-text; the engine computes them together."""
    window, begin = model.engine.n_ctx, start_of_document(model.tokenizer)
    if not begin and len(ids) < 2:
        raise ApiError(400, "text has one token, and the vocabulary no end-of-text to come before it", param="text")
    text = [*begin, *ids]
    spans = sliding(len(text), context=window - 1, stride=max(1, window // 2))
    text_size = f"the text of {len(ids):,} tokens takes {len(spans):,} windows"
    require_places(len(spans), state.of(request), text_size, param="text")
    params = SamplingParams(max_tokens=0, prompt_logprobs=top)
    samples = [Sample(list(text[first:last]), params) for first, last, _ in spans]
    generation = Generation(model, samples, owner=state.owner(request))
    answers = await finished(state.of(request), model, generation)
    decoder = TextDecoder(model.tokenizer)
    scored = []
    for answer, (first, last, done) in zip(answers, spans, strict=True):
        result = answer.prompt_score
        assert result
        for place in range(done, last):
            logprob = result.logprobs[place - first]
            assert logprob is not None
            scored.append(Scored(text[place], decoder.push(text[place]), logprob, result.top[place - first]))
    return scored


def _token(model: LoadedModel, token: Scored) -> dict[str, Any]:
    top = [_alternative(model, id_, logprob) for id_, logprob in token.top]
    return {**_alternative(model, token.id, token.logprob), "top": top}


def _alternative(model: LoadedModel, id_: int, logprob: float) -> dict[str, Any]:
    text = token_text(model.tokenizer, id_)
    return {"id": id_, "token": text, "logprob": finite(logprob), "probability": math.exp(logprob)}


def _words(tokens: Sequence[Scored]) -> list[dict[str, Any]]:
    """Words with the white space before them; a token belongs to the word in which it begins."""
    words: list[dict[str, Any]] = []
    for token, is_new in zip(tokens, word_begins([token.text for token in tokens]), strict=True):
        if is_new:
            words.append({"word": "", "logprob": 0.0, "tokens": 0})
        word = words[-1]
        word["word"] += token.text
        word["logprob"] += finite(token.logprob)
        word["tokens"] += 1
    return words
