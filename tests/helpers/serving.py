"""A server with fake models whose engine implements the `serving` contract and counts upward.

The most likely next token is the next id, so that "a" is continued by "bcd...": p(t | previous) is a softmax of
-0.1 * ((t - previous - 1) mod n_vocab).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType

import httpx
import numpy as np
import uvicorn

from estimator.errors import UserError
from estimator.generation.completion import PredictionConfig
from estimator.tokenization.tokenizer import Tokenizer, byte_level_tokenizer
from serving.api import app
from serving.api.server import _protocol
from serving.api.state import Loader, Server
from serving.config import ModelEntry, checked
from serving.loaded import LoadedModel
from serving.request import (
    EngineClosed,
    EngineStats,
    Finish,
    Handle,
    PromptScore,
    QueueFull,
    RequestError,
    SamplingParams,
    TokenEvent,
)

TOKENIZER = byte_level_tokenizer()


class CountingEngine:
    """answer: (prompt, index) -> the token at that index, instead of counting. seconds: time per token."""

    def __init__(
        self,
        *,
        n_ctx: int = 64,
        n_vocab: int = TOKENIZER.n_vocab,
        nbytes: int = 100,
        seconds: float = 0.0,
        queue: int = 256,
        answer: Callable[[Sequence[int], int], int] | None = None,
        fault: Finish | None = None,
    ):
        self.n_ctx, self.n_vocab, self.nbytes, self.error = n_ctx, n_vocab, nbytes, None
        self.seconds, self.queue, self.answer, self.fault = seconds, queue, answer, fault
        self.running: set[threading.Event] = set()
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.cancelled = 0
        self.is_closed = False
        self._idle = threading.Condition()

    def logprobs(self, previous: int) -> np.ndarray:
        scores = -0.1 * ((np.arange(self.n_vocab) - previous - 1) % self.n_vocab)
        return scores - np.log(np.exp(scores).sum())

    def submit(self, prompt, params, *, owner="", on_event=None) -> Handle:
        if self.is_closed:
            raise EngineClosed
        params.check(n_vocab=self.n_vocab)
        if not 1 <= len(prompt) <= self.n_ctx:
            raise RequestError("prompt", "the prompt is too long", code="context_length_exceeded")
        if len(self.running) >= self.queue:
            raise QueueFull("the queue is full", retry_after=7)
        stop = threading.Event()
        self.running.add(stop)
        self.requests.append((list(prompt), params))
        handle = Handle(stop.set, on_event)
        threading.Thread(target=self._run, args=(list(prompt), params, handle, stop), daemon=True).start()
        return handle

    def _run(self, prompt: list[int], params: SamplingParams, handle: Handle, stop: threading.Event) -> None:
        made, reason = 0, "length"
        if params.prompt_logprobs is not None:
            handle.deliver(self._scored(prompt, params.prompt_logprobs))
        previous, limit = prompt[-1], self.n_ctx if params.max_tokens is None else params.max_tokens
        while made < limit:
            if stop.wait(self.seconds):
                reason = "cancelled"
                self.cancelled += 1
                break
            if self.fault and made:
                handle.deliver(self.fault)
                break
            values = self.logprobs(previous)
            token = self.answer(prompt, made) if self.answer else (previous + 1) % self.n_vocab
            top = self._top(values, params.logprobs or 0)
            handle.deliver(TokenEvent(token, None if params.logprobs is None else float(values[token]), top))
            previous, made = token, made + 1
            if token in params.stop_ids:
                reason = "stop"
                break
        with self._idle:
            self.running.discard(stop)
            self._idle.notify_all()
        handle.deliver(Finish(reason, prompt_tokens=len(prompt), completion_tokens=made))

    def _scored(self, prompt: list[int], count: int) -> PromptScore:
        rows = [self.logprobs(token) for token in prompt[:-1]]
        own = tuple(float(row[token]) for row, token in zip(rows, prompt[1:], strict=True))
        return PromptScore((None, *own), ((), *(self._top(row, count) for row in rows)))

    @staticmethod
    def _top(values: np.ndarray, count: int):
        return tuple((int(i), float(values[i])) for i in np.argsort(-values, kind="stable")[:count])

    def stats(self) -> EngineStats:
        none = MappingProxyType(dict.fromkeys(("stop", "length", "cancelled", "error"), 0))
        return EngineStats(0, len(self.running), 4, none, 0, 0, 0, 0.0, 0.0, 0)

    def close(self, *, drain: bool, timeout: float) -> None:
        self.is_closed = True
        end = time.monotonic() + (timeout if drain else 0)
        with self._idle:
            self._idle.wait_for(lambda: not self.running, max(0, end - time.monotonic()))
        self.fault = Finish("error", code="shutdown", message="the server is shutting down")
        for stop in list(self.running):
            stop.set()


def loaded(
    key: str = "a",
    engine: CountingEngine | None = None,
    *,
    tokenizer: Tokenizer = TOKENIZER,
    template=None,
    step: int = 1,
    **defaults,
) -> LoadedModel:
    return LoadedModel(key, engine or CountingEngine(), tokenizer, template, PredictionConfig(**defaults), step)


class Models:
    """Loads models by key; a string in place of a model is the error message of loading it."""

    def __init__(self, **models: LoadedModel | str | Callable[[], LoadedModel]):
        self.models, self.loads, self.newest = models, [], {}

    def load(self, entry: ModelEntry) -> LoadedModel:
        self.loads.append(entry.key)
        model = self.models[entry.key]
        if isinstance(model, str):
            raise UserError(model)
        return model() if callable(model) else model

    def loader(self, memory_bytes: int = 10**9) -> Loader:
        return Loader(self.load, lambda entry: 100, lambda entry: self.newest.get(entry.key), memory_bytes)


def configured(*keys: str, load: str = "first_use", **settings):
    models = [{"key": key, "config": f"{key}.json", "load": load} for key in keys]
    return checked({"models": models, **settings}, {}, source="server.json")


@contextlib.contextmanager
def serving(models: Models, *, keys=None, memory_bytes: int = 10**9, **settings) -> Iterator[httpx.Client]:
    """Runs a real server in a thread and yields a client; `client.server` is the server's state."""
    settings = configured(*models.models, **settings)
    state = Server(settings, models.loader(memory_bytes), keys, note=lambda text: None)
    config = uvicorn.Config(
        app.create(state), port=0, log_level="error", http=_protocol(state), lifespan="on", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        client.server, client.address = state, f"http://127.0.0.1:{port}"
        yield client
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
