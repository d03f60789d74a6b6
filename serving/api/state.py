"""What the routes of one server share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from serving.api.errors import ApiError
from serving.api.metrics import Metrics
from serving.api_keys import ApiKeys
from serving.config import ModelEntry, ServerConfig
from serving.loaded import LoadedModel
from serving.registry import Registry


@dataclass
class Loader:
    """How models come into memory; tests hand in others. See `Registry`."""

    load: Callable[[ModelEntry], LoadedModel]
    estimate: Callable[[ModelEntry], int]
    newest_step: Callable[[ModelEntry], int | None]
    memory_bytes: int


@dataclass
class Server:
    """One server."""

    config: ServerConfig
    loader: Loader
    keys: ApiKeys | None
    note: Callable[[str], None]
    metrics: Metrics = field(default_factory=Metrics)
    opened: Registry | None = None

    def __post_init__(self) -> None:
        self._cleaners = {model.key: model.cleaner() for model in self.config.models}

    def clean(self, key: str, text: str) -> str:
        """A model's answer as people can hear it."""
        return self._cleaners[key].clean(text)

    @property
    def registry(self) -> Registry:
        assert self.opened, "the application has not started"
        return self.opened

    def open(self) -> None:
        """Makes the registry, which begins to load; inside the event loop."""
        self.opened = Registry(
            self.config.models,
            load=self.loader.load,
            estimate=self.loader.estimate,
            newest_step=self.loader.newest_step,
            memory_bytes=self.config.memory_bytes or self.loader.memory_bytes,
            load_timeout=self.config.load_timeout,
            max_waiting=self.config.queue,
            note=self.note,
            on_event=lambda event, key: self.metrics.events.labels(event, key).inc(),
        )
        self.metrics.watch(self.opened)

    def pick(self, model: str | None) -> str:
        """The key of a model; the only one there is may be left out."""
        if model:
            return model
        if len(self.config.models) > 1:
            names = ", ".join(entry.key for entry in self.config.models[:20])
            raise ApiError(400, f"model: missing; write one of {names}", param="model")
        return self.config.models[0].key


def of(request: Request) -> Server:
    """The server that a request is for."""
    return request.app.state.server


def owner(request: Request) -> str:
    """The name of the API key that a request came with, "" without keys."""
    return request.scope.get("gpt2.owner", "")
