"""What the engine is asked and what it answers: plain data, without text, HTTP or JAX."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

TOP_LOGPROBS = 20  # the most alternatives of a token that can be asked for
Reason = Literal["stop", "length", "cancelled", "error"]
ErrorCode = Literal["timeout", "shutdown", "internal"]


@dataclass(frozen=True)
class EngineConfig:
    """Limits of an engine."""

    slots: int = 16
    """Requests that are decoded together, fewer where `cache_bytes` have no room."""
    queue: int = 256
    """Requests that may wait."""
    owner_queue: int = 256
    """Requests of one owner that may wait."""
    chunk: int = 128
    """Prompt tokens computed between two steps of the others."""
    timeout: float = 600.0
    """Seconds that a request may take, its wait included."""
    cache_bytes: int = 2**32
    """Keys and values of all slots, each with room for the whole context."""
    prefix_bytes: int = 2**28
    """Keys and values held for prompts that begin alike."""


class RequestError(ValueError):
    """A request that cannot be served. param: the parameter at fault, "prompt" or a field of `SamplingParams`."""

    def __init__(self, param: str, message: str, *, code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


class QueueFull(Exception):
    """The queue, or the owner's part of it, is full. retry_after: whole seconds until a place is likely, 1 to 120."""

    def __init__(self, message: str, *, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class EngineClosed(Exception):
    """The engine takes no more requests: it is closed, drains, or has failed."""


@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are drawn. The defaults are neutral: each token from the model's own distribution."""

    max_tokens: int | None = 16
    """New tokens at most. None: until the context is full. 0: the prompt is scored only."""
    temperature: float = 1.0
    """Divides the scores; 0 takes the likeliest token."""
    top_k: int = 0
    """Among the k likeliest; 0 is all."""
    top_p: float = 1.0
    """Among the smallest set of likeliest tokens with this total probability."""
    min_p: float = 0.0
    """Among tokens at least this probable relative to the likeliest one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative scores of tokens in the prompt or the answer (Keskar et al. 2019)."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's score for each time the answer has it (OpenAI)."""
    presence_penalty: float = 0.0
    """Subtracted from a token's score once the answer has it (OpenAI)."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Added to the scores of these token ids."""
    seed: int | None = None
    """0 to 2**32 - 1; None draws one."""
    sample_index: int = 0
    """Number of this answer among those to one prompt and seed; answer i equals main.py's sample i."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer; the one that did is its last TokenEvent."""
    logprobs: int | None = None
    """Alternatives whose log-probability is wanted for each new token, 0 to TOP_LOGPROBS; None: not even its own."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens, which are then never cut."""

    def check(self, *, n_vocab: int) -> None:
        """Raises a RequestError that names the first parameter out of range."""
        ranges: list[tuple[str, float | None, float, float]] = [
            ("max_tokens", self.max_tokens, 0, 2**31 - 1),
            ("temperature", self.temperature, 0, 100),
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("min_p", self.min_p, 0, 1),
            ("repetition_penalty", self.repetition_penalty, 0.001, 1000),
            ("frequency_penalty", self.frequency_penalty, -1000, 1000),
            ("presence_penalty", self.presence_penalty, -1000, 1000),
            ("seed", self.seed, 0, 2**32 - 1),
            ("sample_index", self.sample_index, 0, 2**31 - 1),
            ("logprobs", self.logprobs, 0, TOP_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs, 0, TOP_LOGPROBS),
            *(("logit_bias", bias, -1e6, 1e6) for bias in self.logit_bias.values()),
        ]
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= high:  # NaN is in no range
                raise RequestError(name, f"{name} {value}: write a number from {low:,} to {high:,}")
        if not 0 < self.top_p <= 1:
            raise RequestError("top_p", f"top_p {self.top_p}: write a number above 0, at most 1")
        for token in self.logit_bias:
            if not 0 <= token < n_vocab:
                raise RequestError("logit_bias", f"logit_bias: token {token} is not one of the model's {n_vocab:,}")


Alternatives = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenEvent:
    """A new token.

    logprob: its natural log-probability by the model (before temperature, penalties and bias), if asked for.
    top: (id, log-probability) of the likeliest, best first; the likeliest token's value equals its `logprob` exactly.
    cached_tokens: as in Finish, for answers that end before it comes.
    """

    token: int
    logprob: float | None = None
    top: Alternatives = ()
    cached_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PromptScore:
    """Log-probability of each of the prompt's tokens given those before it; entry 0 is None and has no `top`."""

    logprobs: tuple[float | None, ...]
    top: tuple[Alternatives, ...]


@dataclass(frozen=True)
class Finish:
    """The last event of a request.

    cached_tokens: tokens of the prompt whose keys and values were there already. Times are in seconds since `submit`;
    first_token_seconds is None without a token. message, code: of reason "error", a sentence for the client.
    """

    reason: Reason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    first_token_seconds: float | None = None
    total_seconds: float = 0.0
    message: str = ""
    code: ErrorCode | None = None


Event = TokenEvent | PromptScore | Finish


@dataclass(frozen=True)
class EngineStats:
    """A snapshot; counts are totals since the engine began, times in seconds are means over its requests and tokens."""

    queued: int
    running: int
    slots: int
    finished: Mapping[Reason, int]
    prompt_tokens: int
    computed_prompt_tokens: int
    """Prompt tokens that went through the model: those reused from a common beginning are not among them."""
    completion_tokens: int
    first_token_seconds: float
    token_seconds: float
    prefix_bytes: int
    """Keys and values that are held for reuse."""


def _nothing() -> None:
    pass


class Handle:
    """A request under way; iterate over it, once, for its events."""

    def __init__(self, cancel: Callable[[], None], on_event: Callable[[Event], None] | None = None):
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancel, self._on_event = cancel, on_event
        self._lock, self._is_finished = threading.Lock(), False

    def __iter__(self) -> Iterator[Event]:
        """Raises RuntimeError if the events go to `on_event` instead."""
        if self._on_event is not None:
            raise RuntimeError("the events of this request go to its on_event; submit it without one to wait for them")
        while True:
            event = self._events.get()
            yield event
            if isinstance(event, Finish):
                return

    def cancel(self) -> None:
        """Ends the request; it gets no more tokens, and `Finish("cancelled")` unless it had finished."""
        self._cancel()

    def result(self) -> tuple[list[int], Finish]:
        """Waits for the end: the new tokens, and how they ended. Raises RuntimeError with `on_event`."""
        *events, finish = self
        assert isinstance(finish, Finish)
        return [event.token for event in events if isinstance(event, TokenEvent)], finish

    def deliver(self, event: Event) -> bool:
        """For the engine: hands an event on; False when its receiver is gone (asyncio's loop is closed)."""
        with self._lock:
            if self._is_finished:
                return True
            self._is_finished = isinstance(event, Finish)
            if self._is_finished:
                self._cancel = _nothing  # it refers to the engine, whose weights would stay until a garbage collection
        if self._on_event is None:
            self._events.put(event)
            return True
        try:
            self._on_event(event)
        except RuntimeError:  # call_soon_threadsafe of a closed loop
            return False
        return True
