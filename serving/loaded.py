"""A model in memory, as the routes see it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from estimator.corpus.chat_template import Template
from estimator.generation.completion import PredictionConfig
from estimator.tokenization.tokenizer import Tokenizer
from serving.request import EngineStats, Event, Handle, SamplingParams


class Submitting(Protocol):
    """An engine as the server uses it; see `serving` for what its methods promise."""

    n_ctx: int
    n_vocab: int
    nbytes: int
    error: str | None

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        owner: str = "",
        on_event: Callable[[Event], None] | None = None,
    ) -> Handle: ...

    def stats(self) -> EngineStats: ...
    def close(self, *, drain: bool, timeout: float) -> object: ...


@dataclass
class LoadedModel:
    """A checkpoint that answers requests."""

    key: str
    engine: Submitting
    tokenizer: Tokenizer
    template: Template | None
    """The special tokens of chats; None for a model that was not trained on chats."""
    defaults: PredictionConfig
    """What a request that does not say otherwise gets: the run's own ways to draw, and stop."""
    step: int
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """Names the weights that have answered."""
        return f"{self.key}@{self.step}"
