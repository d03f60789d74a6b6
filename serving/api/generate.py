"""Answers of an engine as text: several samples of several prompts under way together, for streams and whole bodies."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from estimator.tokenization.tokenizer import Tokenizer
from serving.api import errors
from serving.loaded import LoadedModel
from serving.request import (
    EngineClosed,
    Event,
    Finish,
    Handle,
    PromptScore,
    QueueFull,
    RequestError,
    SamplingParams,
    TokenEvent,
)
from serving.text import StopFilter, TextDecoder

FinishReason = Literal["stop", "length"]
LOWEST = -9999.0  # of a log-probability; JSON has no infinity


@dataclass(frozen=True)
class ScoredToken:
    """A token of a prompt or an answer. logprob: None of a text's first token.

    offset: characters of the text before it; a token that begins behind the stop string is at the end of the text.
    """

    id: int
    offset: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One answer that is wanted."""

    prompt: list[int]
    params: SamplingParams
    stop: Sequence[str] = ()
    offset: int = 0
    """Characters of the prompt, which offsets of tokens count from."""


@dataclass
class Delta:
    """What an answer has gained."""

    index: int
    text: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    prompt_score: PromptScore | None = None

    def extended(self, later: "Delta") -> "Delta":
        """This and what came after it, before the end of the answer."""
        return Delta(
            self.index,
            self.text + later.text,
            self.tokens + later.tokens,
            prompt_score=self.prompt_score or later.prompt_score,
        )


class Answer:
    """An answer while it grows."""

    def __init__(self, index: int, sample: Sample, tokenizer: Tokenizer):
        self.index = index
        self.text = ""
        self.tokens: list[ScoredToken] = []
        self.finish_reason: FinishReason | None = None
        self.prompt_score: PromptScore | None = None
        self.count = 0
        """Tokens of the answer, one that ended it included."""
        self.cached_tokens = 0
        self._params, self._offset = sample.params, sample.offset
        self._decoder = TextDecoder(tokenizer, sample.prompt[-1] if sample.prompt else None)
        self._stop = StopFilter(sample.stop)
        self._begins: list[int] = []  # of all tokens, in the text with the stop string
        self._held: deque[ScoredToken] = deque()  # begin in text that the stop filter holds back

    @property
    def mean_logprob(self) -> float:
        """Of the tokens of its text, without those that end it; the measure of best_of, as in main.py."""
        values = [token.logprob for token in self.tokens[: self._text_tokens()] if token.logprob is not None]
        return math.fsum(values) / len(values) if values else -math.inf

    def _text_tokens(self) -> int:
        """How many tokens the text has, the one in which the stop string begins left out."""
        if not self._stop.is_hit:
            return sum(token.id not in self._params.stop_ids for token in self.tokens)
        ends = self._begins[1:]
        count = sum(end <= len(self.text) for end in ends)
        while count and ends[count - 1] == self._begins[count - 1]:
            count -= 1  # the beginning of a character that the stop string begins with
        return count

    def push(self, event: Event) -> Delta:
        """Takes an event in. Raises ApiError for an answer that failed."""
        delta = Delta(self.index)
        if self.finish_reason:
            return delta
        match event:
            case PromptScore():
                self.prompt_score = delta.prompt_score = event
            case TokenEvent():
                self._take(event, delta)
            case Finish(reason="error"):
                raise errors.of_finish(event)
            case Finish():
                self.cached_tokens = event.cached_tokens  # of an answer without tokens
                self._end(delta, "length" if event.reason == "length" else "stop")
        self.text += delta.text
        delta.tokens = self._placed()
        self.tokens += delta.tokens
        return delta

    def _take(self, event: TokenEvent, delta: Delta) -> None:
        self.count += 1
        self.cached_tokens = event.cached_tokens
        is_end = event.token in self._params.stop_ids  # the Finish follows
        text = "" if is_end else self._decoder.push(event.token)
        if self._params.logprobs is not None:
            begin = self._decoder.end if is_end else self._decoder.begin
            self._begins.append(begin)
            self._held.append(ScoredToken(event.token, self._offset + begin, event.logprob, event.top))
        if is_end:
            return
        delta.text = self._stop.push(text)
        if self._stop.is_hit:
            self._end(delta, "stop")

    def _end(self, delta: Delta, reason: FinishReason) -> None:
        if not self._stop.is_hit:
            delta.text += self._stop.push(self._decoder.finish())
            delta.text += self._stop.finish()
        # Also a character that was cut off may be a stop string.
        self.finish_reason = delta.finish_reason = "stop" if self._stop.is_hit else reason

    def _placed(self) -> list[ScoredToken]:
        """Gives the tokens whose places are known: those that begin in the text so far, and at its end all."""
        end, tokens = self._offset + len(self.text), []
        while self._held and (self.finish_reason or self._held[0].offset <= end):
            token = self._held.popleft()
            tokens.append(replace(token, offset=end) if token.offset > end else token)
        return tokens


class Generation:
    """All answers to one HTTP request: submitted by the constructor, and ended by the end of `deltas` or by `cancel`.

    Raises ApiError where the engine refuses one of them; then none is under way.
    """

    def __init__(self, model: LoadedModel, samples: Sequence[Sample], *, owner: str):
        self.answers = [Answer(index, sample, model.tokenizer) for index, sample in enumerate(samples)]
        # Samples of one prompt have it in common.
        self.prompt_tokens = sum(len(sample.prompt) for sample in samples if not sample.params.sample_index)
        self.began = time.monotonic()
        self.first_token_at: float | None = None
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._handles: list[Handle] = []
        loop = asyncio.get_running_loop()

        def deliver(index: int, event: Event) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        try:
            for index, sample in enumerate(samples):
                handle = model.engine.submit(
                    sample.prompt, sample.params, owner=owner, on_event=partial(deliver, index)
                )
                self._handles.append(handle)
        except (RequestError, QueueFull, EngineClosed) as error:
            self.cancel()
            raise errors.of_engine(error) from None

    async def deltas(self) -> AsyncGenerator[list[Delta]]:
        """What comes, as soon as it comes, until every answer has ended. Raises ApiError, with the others cancelled.

        Tokens of an answer that come together are one Delta: sending and reading each takes time from the model.
        """
        try:
            while any(not answer.finish_reason for answer in self.answers):
                events = [await self._queue.get()]
                while not self._queue.empty():
                    events.append(self._queue.get_nowait())
                fresh: dict[int, Delta] = {}
                ends = []
                for index, event in events:
                    delta = self._push(index, event)
                    if delta.finish_reason:  # which clients read in a chunk of its own
                        ends.append(delta)
                    else:
                        fresh[index] = fresh[index].extended(delta) if index in fresh else delta
                news = [delta for delta in fresh.values() if delta.text or delta.tokens or delta.prompt_score]
                if news or ends:
                    yield news + ends
        finally:
            self.cancel()

    async def finished(self) -> list[Answer]:
        """All answers, at their end."""
        async for _ in self.deltas():
            pass
        return self.answers

    def cancel(self) -> None:
        """Frees the slots of the engine; does not wait."""
        for handle in self._handles:
            handle.cancel()

    @property
    def completion_tokens(self) -> int:
        return sum(answer.count for answer in self.answers)

    def _push(self, index: int, event: Event) -> Delta:
        if isinstance(event, TokenEvent) and self.first_token_at is None:
            self.first_token_at = time.monotonic()
        delta = self.answers[index].push(event)
        if delta.finish_reason and not isinstance(event, Finish):
            self._handles[index].cancel()
        return delta


def prompt_tokens(model: LoadedModel, ids: Sequence[int], score: PromptScore, *, text: str) -> list[ScoredToken]:
    """The tokens of a prompt with their log-probabilities; offsets count from the beginning of its text.

    Where a vocabulary changes text, offsets are those in what the tokens say, without a blank that it has put in front,
    and none is beyond the end of the text.
    """
    decoder, tokens = TextDecoder(model.tokenizer), []
    blank = model.tokenizer.decode(ids[:1]).startswith(" ") and not text.startswith(" ")
    for token, logprob, top in zip(ids, score.logprobs, score.top, strict=True):
        decoder.push(token)
        offset = min(max(0, decoder.begin - blank), len(text))
        tokens.append(ScoredToken(token, offset, logprob, top))
    return tokens


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, LOWEST)
