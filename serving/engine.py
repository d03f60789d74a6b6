"""Continuous batching: requests of many clients share one model and join and leave between its steps.

One thread owns the model. It takes requests from their owners in turn, computes a piece of the waiting prompts, draws
some tokens for all that are ready in one compiled call, and hands them to the requests' handles.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from estimator.errors import NOT_FINITE
from models.gpt2.config import GPT2Config
from models.gpt2.decode.drawing import LOST, bias_row, history_row
from models.gpt2.decode.sampler import Sampler
from models.gpt2.decode.slots import STEPS, Drawn, Piece, Slots
from serving.prefixes import Prefixes, waits
from serving.queue import FairQueue, Request, Tally, settings
from serving.request import (
    Alternatives,
    EngineClosed,
    EngineConfig,
    EngineStats,
    ErrorCode,
    Event,
    Handle,
    PromptScore,
    Reason,
    RequestError,
    SamplingParams,
    TokenEvent,
)

MOST_SPARE = 64  # slots that hold earlier prompts only
CALL_SECONDS = 0.1  # of one decoding call, about: how long a new request or a cancellation waits for it


class Engine:
    """Answers requests with one model; see the package's docstring for the contract."""

    def __init__(self, sampler: Sampler, config: EngineConfig | None = None):
        self.config = config = config or EngineConfig()
        self._sampler = sampler
        self.n_ctx, self.n_vocab = sampler.config.n_ctx, sampler.n_known
        self._count, spare = self.slot_counts(sampler.config, config)
        self._model = Slots(sampler, count=self._count, spare=spare, chunk=config.chunk)
        self.nbytes = self._model.nbytes
        self.error: str | None = None
        self._prefixes = Prefixes(self._model.n_slots)
        self._queue = FairQueue(most=config.queue, most_of_one=config.owner_queue)
        self._running: list[Request] = []
        self._changed = threading.Condition()
        self._is_closing = self._is_aborting = False
        self._tally = Tally()
        self._step_seconds = CALL_SECONDS
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @staticmethod
    def slot_counts(model: GPT2Config, config: EngineConfig) -> tuple[int, int]:
        """Slots that are decoded together, and those that hold earlier prompts only."""
        slot_bytes = Slots.slot_bytes(model)
        count = max(1, min(config.slots, config.cache_bytes // slot_bytes))
        return count, min(MOST_SPARE, config.prefix_bytes // slot_bytes)

    def warm(self) -> None:
        """Compiles what most requests need; call it before the first `submit`."""
        with self._changed:
            if not self._running and not len(self._queue):
                self._model.warm()

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        owner: str = "",
        timeout: float | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Handle:
        """Queues a request of `owner`, whose requests share the engine evenly with those of others.

        timeout: seconds, at most the configured ones. on_event: called by the engine's thread with each event; it
        must not block. Raises RequestError, QueueFull, EngineClosed.
        """
        request = self._request(prompt, params or SamplingParams(), owner, timeout, on_event)
        with self._changed:
            if self.error or self._is_closing:
                raise EngineClosed(self.error or "the engine is closing")
            self._queue.put(request, retry_after=self._tally.retry_after())
            self._changed.notify_all()
        return request.handle

    def stats(self) -> EngineStats:
        with self._changed:
            token_bytes = Slots.slot_bytes(self._sampler.config) // self.n_ctx
            held = sum(len(slot.tokens) for slot in self._prefixes.slots if slot.is_free)
            # Requests that ended in this step are known to their callers before they leave the list.
            running, slots = sum(request.slot is not None for request in self._running), self._count
            return self._tally.stats(
                queued=len(self._queue), running=running, slots=slots, prefix_bytes=held * token_bytes
            )

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Takes no more requests; finishes those under way if `drain`, for `timeout` seconds at most.

        The rest end with an error "shutdown". Returns whether all were finished in time.
        """
        with self._changed:
            self._is_closing = True
            self._is_aborting |= not drain
            self._changed.notify_all()
        self._thread.join(timeout)
        is_done = not self._thread.is_alive()
        if not is_done:
            with self._changed:
                self._is_aborting = True
                self._changed.notify_all()
            self._thread.join()
        return is_done

    # Requests.

    def _request(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        owner: str,
        timeout: float | None,
        on_event: Callable[[Event], None] | None,
    ) -> Request:
        params.check(n_vocab=self.n_vocab)
        if not 1 <= len(prompt) <= self.n_ctx:
            raise RequestError(
                "prompt",
                f"the prompt has {len(prompt):,} tokens; this model takes 1 to {self.n_ctx:,}",
                code="context_length_exceeded" if len(prompt) else None,
            )
        if wrong := [token for token in prompt if not 0 <= token < self.n_vocab]:
            raise RequestError("prompt", f"token {wrong[0]} of the prompt is not one of the model's {self.n_vocab:,}")
        tokens = np.asarray(prompt, np.int32)
        max_tokens = max(1, self.n_ctx - len(prompt)) if params.max_tokens is None else params.max_tokens
        seen = tokens[-self._sampler.longest_prompt(max_tokens) :] if max_tokens else tokens
        window = seen if params.prompt_logprobs is None else tokens
        request: Request

        def cancel() -> None:
            with self._changed:
                request.is_cancelled = True
                self._changed.notify_all()

        seed = secrets.randbits(32) if params.seed is None else params.seed
        limit = min(self.config.timeout, math.inf if timeout is None else timeout)
        request = Request(tokens, params, owner, seed, max_tokens, limit, seen, window, Handle(cancel, on_event))
        return request

    # The engine's thread.

    def _run(self) -> None:
        try:
            while self._wait():
                begun = time.monotonic()
                self._step()
                self._tally.busy += time.monotonic() - begun
        except Exception as error:  # nobody else sees what ends a thread: the requests and the next ones do
            self.error = f"the engine failed: {error}"
            with self._changed:
                self._abort("internal", self.error)
            raise

    def _wait(self) -> bool:
        """Waits for work; False when there is none and the engine is closed."""
        with self._changed:
            while not self._running and not len(self._queue) and not self._is_closing:
                self._changed.wait()
            if self._is_aborting:
                self._abort("shutdown", "the server is shutting down")
            return bool(self._running or len(self._queue) or not self._is_closing)

    def _abort(self, code: ErrorCode, message: str) -> None:
        for request in [*self._running, *self._queue]:
            self._finish(request, reason="error", message=message, code=code)
        self._queue.drop(lambda _: True)
        self._running.clear()

    def _step(self) -> None:
        with self._changed:
            self._drop_ended()
            self._admit()
        if prompts := [request for request in self._running if request.row is None]:
            self._prefill(prompts)
        if ready := [request for request in self._running if request.slot and request.row]:
            self._decode(ready, is_alone=len(ready) == len(self._running))
        with self._changed:
            self._running = [request for request in self._running if request.slot is not None]

    def _drop_ended(self) -> None:
        """Cancelled and late requests leave their slots and the queue."""
        now = time.monotonic()

        def ends(request: Request) -> bool:
            if request.is_cancelled:
                self._finish(request, "cancelled")
            elif now > request.submitted + request.timeout:
                message = f"the request took longer than its limit of {request.timeout:g} s"
                self._finish(request, "error", message, "timeout")
            else:
                return False
            return True

        self._running = [request for request in self._running if not ends(request)]
        self._queue.drop(ends)

    def _admit(self) -> None:
        """Gives slots to the first requests of owners in turn; those with much in common wait for each other."""
        while len(self._running) < self._count:
            prompts = [request.window for request in self._running if request.row is None]
            request = self._queue.take(lambda request: waits(request.window, prompts, self._prefixes))  # noqa: B023
            if request is None:
                return
            self._begin(request)

    def _begin(self, request: Request) -> None:
        params = request.params
        request.begun = time.monotonic()
        placement = self._prefixes.place(request.window, top=params.prompt_logprobs)
        if placement.source:
            self._model.copy(placement.source.number, placement.slot.number, placement.kept)
        request.slot, request.cached = placement.slot, placement.kept
        self._running.append(request)
        self._tally.prompt += len(request.window)
        if settings(params).has_penalties or params.logit_bias:
            size = self._sampler.config.padded_vocab
            history = history_row(request.seen.tolist(), [], size)
            self._model.set_drawing(placement.slot.number, history, bias_row(params.logit_bias, size))

    # Prompts.

    def _prefill(self, requests: list[Request]) -> None:
        """One piece of the first prompts: more tokens where nobody waits for the next ones or many prompts do."""
        is_busy = len(self._running) > len(requests) and len(requests) < 3
        is_scored = requests[0].is_scored  # then scores of all tokens take memory
        budget = self._model.chunk if is_busy or is_scored else self._model.most_tokens
        chosen, pieces = [], []
        for request in requests:
            if request.is_scored != is_scored or not budget:
                continue
            piece = self._piece(request, budget)
            chosen.append(request)
            pieces.append(piece)
            budget -= len(piece.tokens)
            if not self._model.is_native:
                break
        scores = self._model.prefill(pieces)
        self._tally.computed += sum(len(piece.tokens) for piece in pieces)
        for i, (request, piece) in enumerate(zip(chosen, pieces, strict=True)):
            self._computed(request, piece, scores[i] if scores else None)
        if ended := [request for request, piece in zip(chosen, pieces, strict=True) if piece.is_last and request.slot]:
            self._first(ended)

    @staticmethod
    def _piece(request: Request, budget: int) -> Piece:
        assert request.slot
        start, window = len(request.slot.tokens), request.window
        tokens = window[start : start + budget]
        end, targets = start + len(tokens), None
        if request.is_scored:
            targets = np.zeros_like(tokens)
            following = window[start + 1 : end + 1]
            targets[: len(following)] = following
        return Piece(request.slot.number, start, tokens, end == len(window), targets)

    def _computed(self, request: Request, piece: Piece, scores: Drawn | None) -> None:
        slot = request.slot
        assert slot
        if scores is not None and not np.isfinite(scores.logprob).all():
            self._finish(request, "error", NOT_FINITE, "internal")
            return
        slot.tokens = request.window[: piece.start + len(piece.tokens)]
        if scores is None or request.params.prompt_logprobs is None:
            return
        new = [(float(scores.logprob[i]), self._alternatives(scores, i, slot.top)) for i in range(len(piece.tokens))]
        slot.scores = [*(slot.scores or [(None, ())]), *new][: len(request.window)]
        if piece.is_last:
            logprobs, top = zip(*slot.scores, strict=True)
            count = request.params.prompt_logprobs
            request.handle.deliver(PromptScore(logprobs, tuple(pairs[:count] for pairs in top)))

    def _first(self, requests: list[Request]) -> None:
        """The first tokens after prompts that have been computed."""
        for request in requests:
            if request.is_scored and len(request.seen) < len(request.window):
                self._restart(request)  # the answer is the same as without scores
                continue
            request.begin_row(n_ctx=self.n_ctx)
            if not request.max_tokens:
                self._finish(request, "length")
        drawn_for = [request for request in requests if request.slot and request.row]
        for group in _groups(drawn_for, self._model.most_rows):
            self._deliver(group, self._model.first([request.row for request in group if request.row]))

    # Tokens.

    def _decode(self, requests: list[Request], *, is_alone: bool) -> None:
        """Some tokens of each request: one where prompts wait, else so many that a new request waits a moment."""
        left = [request.left for request in requests]
        steps = 1 if not is_alone else int(np.clip(CALL_SECONDS / self._step_seconds, 1, STEPS))
        with self._changed:
            steps = min(steps, min(left) if len(self._queue) else max(left))
        begun = time.monotonic()
        for group in _groups(requests, self._model.most_rows):
            self._deliver(group, self._model.decode([request.row for request in group if request.row], steps))
        seconds = min(CALL_SECONDS, (time.monotonic() - begun) / steps)  # the first call compiles
        self._step_seconds += (seconds - self._step_seconds) / 4

    def _deliver(self, requests: list[Request], drawn: Drawn) -> None:
        now = time.monotonic()
        for i, request in enumerate(requests):
            params, own = request.params, Drawn(*(x[i] for x in drawn))
            if request.first_token is None:
                request.first_token = now
            for j, token in enumerate(drawn.token[i].tolist()):
                if token == LOST and request.slot:
                    self._finish(request, "error", NOT_FINITE, "internal")
                if token < 0 or request.slot is None or request.is_cancelled:
                    break
                request.answer.append(token)
                self._tally.tokens += 1
                logprob = None if params.logprobs is None else float(drawn.logprob[i, j])
                top = self._alternatives(own, j, params.logprobs) if params.logprobs else ()
                if not request.handle.deliver(TokenEvent(token, logprob, top, request.cached)):
                    request.is_cancelled = True
                if token in params.stop_ids:
                    self._finish(request, "stop")
                elif len(request.answer) >= request.max_tokens:
                    self._finish(request, "length")
            if request.slot and not request.left:
                self._restart(request)

    def _restart(self, request: Request) -> None:
        """A full context continues from its last half, as in the Sampler: learned positions cannot slide.

        After a prompt whose scores are wanted, the answer follows from as much of it as without them.
        """
        assert request.slot
        tokens = np.concatenate([request.prompt, np.asarray(request.answer, np.int32)])
        request.window = tokens[-self._sampler.longest_prompt(request.max_tokens - len(request.answer)) :]
        request.row = None
        request.slot.tokens, request.slot.scores, request.slot.top = request.window[:0], [], -1
        self._tally.prompt += len(request.window)

    @staticmethod
    def _alternatives(scores: Drawn, i: int, count: int) -> Alternatives:
        pairs = zip(scores.top[i].tolist(), scores.top_logprobs[i].tolist(), strict=True)
        return tuple([pair for pair in pairs if pair[1] > -math.inf][:count])

    def _finish(self, request: Request, reason: Reason, message: str = "", code: ErrorCode | None = None) -> None:
        if request.slot:
            self._prefixes.free(request.slot)
            request.slot = None
        self._tally.add(request.finish(reason, message, code))


def _groups(requests: list[Request], size: int) -> list[list[Request]]:
    return [requests[i : i + size] for i in range(0, len(requests), size)]
