"""From a checked body to an answer or a stream: the way that completions and chats share."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response

from estimator.generation.completion import TOKEN_ID, PredictionConfig, Settings
from serving.api import state
from serving.api.errors import ApiError, ClientGone, Json
from serving.api.generate import Answer, Delta, Generation, Sample
from serving.api.schemas import SamplingBody
from serving.api.sse import EventStream, while_connected
from serving.loaded import LoadedModel
from serving.registry import Lease
from serving.request import SamplingParams
from serving.text import start_of_document

LARGE_BODY = 16_384  # bytes of a request whose text is encoded in a thread, so that the others do not wait
T = TypeVar("T")


class Reply(Protocol):
    """The form of an answer."""

    samples: list[Sample]

    def head(self) -> list[dict[str, Any]]:
        """Chunks of a stream before the first token."""
        ...

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk of a stream."""
        ...

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk of a stream that has the usage."""
        ...

    def whole(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        """The body without a stream."""
        ...


async def respond(request: Request, body: SamplingBody, form: Callable[[LoadedModel], Reply]) -> Response:
    """Answers a request. Nothing is sent before the first token, so that every refusal has its status."""
    server = state.of(request)
    acquire = server.registry.acquire(server.pick(body.model))
    lease = await while_connected(request, acquire, discard=Lease.release)
    try:
        reply = await in_thread_if_large(request, lambda: form(lease.model))
        generation = Generation(lease.model, reply.samples, owner=state.owner(request))
    except BaseException:
        lease.release()
        raise

    def close(outcome: str) -> None:
        generation.cancel()
        account(server, lease.model, generation, outcome)
        lease.release()

    outcome: str | None = "error"
    try:
        deltas = generation.deltas()
        first = await while_connected(request, anext(deltas, []))
        if body.stream:
            has_usage = bool(body.stream_options and body.stream_options.include_usage)
            outcome = None  # the stream's to tell
            return EventStream(_chunks(reply, first, deltas, generation, has_usage=has_usage), close=close)
        await while_connected(request, _exhaust(deltas))
        outcome = "done"
        return Json(reply.whole(generation.answers, usage(generation, reply.samples)))
    except ClientGone:
        outcome = "gone"
        raise
    finally:
        if outcome:
            close(outcome)


async def _exhaust(deltas: AsyncGenerator[list[Delta]]) -> None:
    async for _ in deltas:
        pass


async def _chunks(
    reply: Reply, first: list[Delta], deltas: AsyncGenerator[list[Delta]], generation: Generation, *, has_usage: bool
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The objects of a stream, those that come together in one list."""
    nothing = {"usage": None} if has_usage else {}
    async with contextlib.aclosing(deltas):
        yield [chunk | nothing for chunk in [*reply.head(), *map(reply.chunk, first)]]
        async for fresh in deltas:
            yield [reply.chunk(delta) | nothing for delta in fresh]
    if has_usage:
        yield [reply.last(usage(generation, reply.samples))]


async def in_thread_if_large(request: Request, work: Callable[[], T]) -> T:
    """The result of some work on a request's text, in a thread if there is much of it."""
    if int(request.headers.get("content-length") or LARGE_BODY) < LARGE_BODY:
        return work()
    return await asyncio.to_thread(work)


def usage(generation: Generation, samples: Sequence[Sample]) -> dict[str, Any]:
    """Tokens of the prompts, each counted once, and of all answers, those that best_of dropped included."""
    prompt = generation.prompt_tokens
    cached = sum(a.cached_tokens for a, s in zip(generation.answers, samples, strict=True) if not s.params.sample_index)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": prompt + generation.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


async def finished(server: state.Server, model: LoadedModel, generation: Generation) -> list[Answer]:
    """All answers, at their end; adds the generation to the metrics."""
    outcome = "gone"
    try:
        answers = await generation.finished()
        outcome = "done"
        return answers
    except ApiError:
        outcome = "error"
        raise
    finally:
        account(server, model, generation, outcome)


def account(server: state.Server, model: LoadedModel, generation: Generation, outcome: str) -> None:
    """Adds a generation to the metrics."""
    metrics, count = server.metrics, generation.completion_tokens
    metrics.ended.labels(model.key, outcome).inc()
    metrics.prompt_tokens.labels(model.key).inc(generation.prompt_tokens)
    metrics.completion_tokens.labels(model.key).inc(count)
    if generation.first_token_at is not None:
        metrics.first_token.labels(model.key).observe(generation.first_token_at - generation.began)
        longest = max(answer.count for answer in generation.answers)
        if longest > 1:
            seconds = (time.monotonic() - generation.first_token_at) / (longest - 1)
            metrics.token.labels(model.key).observe(seconds)


def sampling(
    body: SamplingBody,
    model: LoadedModel,
    *,
    max_tokens: int,
    stop_ids: frozenset[int],
    stops: Sequence[str] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> tuple[SamplingParams, list[str]]:
    """How to draw, and the stop strings; the run's own settings where the request says nothing."""
    defaults, tokenizer = model.defaults, model.tokenizer
    stops = [*(defaults.stop if body.stops is None else body.stops), *stops]
    special = {tokenizer.special_tokens[text] for text in stops if text in tokenizer.special_tokens}
    ends = stop_ids | special
    if body.ignore_eos:
        ends -= set(start_of_document(tokenizer))
    given = {name: value for name in Settings._fields if (value := getattr(body, name)) is not None}
    if "top_k" in given:
        given["top_k"] = max(0, given["top_k"])
    if "logit_bias" in given:
        given["logit_bias"] = {_id(key): value for key, value in given["logit_bias"].items()}
    return SamplingParams(
        max_tokens=max_tokens,
        **own_settings(defaults) | given,
        seed=None if body.seed is None else body.seed % 2**32,
        stop_ids=ends,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    ), stops


def own_settings(run: PredictionConfig) -> dict[str, Any]:
    """How a run draws where a request says nothing, by the names of `SamplingParams`."""
    settings = run.settings
    return settings._asdict() | {"logit_bias": settings.logit_bias or {}}


def _id(key: str) -> int:
    if not TOKEN_ID.fullmatch(key):
        raise ApiError(400, f"logit_bias: {key[:40]!r} is no token id; write ids as keys", param="logit_bias")
    return int(key)


def require_context(model: LoadedModel, prompt: Sequence[int], *, param: str) -> None:
    """Refuses a prompt without tokens, with ids that the model lacks, or of more tokens than its positions."""
    n_ctx, n_vocab = model.engine.n_ctx, model.engine.n_vocab
    if not prompt:
        raise ApiError(400, "the prompt is empty, and the vocabulary has no end-of-text to begin with", param=param)
    if len(prompt) > n_ctx:
        message = f"this model's maximum context length is {n_ctx} tokens, but {param} has {len(prompt)}; shorten it"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    if max(prompt) >= n_vocab:
        raise ApiError(400, f"{param}: no token has the id {max(prompt)}; there are {n_vocab:,}", param=param)


def require_length(max_tokens: int, server: state.Server) -> int:
    """max_tokens, if the server allows it."""
    if max_tokens > server.config.max_tokens:
        raise ApiError(400, f"max_tokens {max_tokens}: at most {server.config.max_tokens}", param="max_tokens")
    return max_tokens


def require_places(count: int, server: state.Server, text: str, *, param: str) -> None:
    """Refuses a body that needs more places than a queue has; a later try would not succeed."""
    key = min("queue", "queue_per_key", key=lambda name: getattr(server.config, name))
    most = getattr(server.config, key)
    if count > most:
        message = f"{text}, more than the {most:,} that may wait at a time ({key} of this server); divide the request"
        raise ApiError(400, message, param=param)
