"""The JSON file of `serve.py --config`: which models are served, to whom, and within which limits."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from estimator import config
from estimator.config import Section, UserPaths
from estimator.errors import UserError
from serving.alexa import AlexaConfig
from serving.request import EngineConfig
from serving.sanitizer import RULES, Rule, Sanitizer

ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://[^/?#\s]+")
KINDS = ("name", "rules")  # of a sanitizer
DIXIE_FOLDER = "models"  # where xeb/gpt-2 looks for `model_name`


class ModelEntry(Section):
    """An entry of models.

    xeb/gpt-2's `model_name` and `restore_from` are read in place of `config`.
    """

    key: str = Field(min_length=1, max_length=200, description="name that clients use")
    config: Annotated[str | None, UserPaths] = Field(None, description="a run's JSON file, or its folder")
    set: list[str] = Field([], description="KEY=VALUE overrides of that file")
    load: Literal["start", "first_use", "request"] = Field(
        "first_use", description="when it is loaded: at start, at its first use, or only by POST /admin/models/KEY/load"
    )
    sanitizer: (
        Annotated[
            Annotated[str, Tag("name")] | Annotated[list[Rule], Tag("rules")],
            Discriminator(lambda value: "rules" if isinstance(value, list) else "name"),
        ]
        | None
    ) = Field(
        None, description="rules that make answers of /invocations and /alexa speakable; any name means xeb/gpt-2's"
    )
    model_name: str | None = Field(None, description=f"xeb/gpt-2: folder below {DIXIE_FOLDER}/ with hparams.json")
    restore_from: Annotated[str | None, UserPaths] = Field(None, description="xeb/gpt-2: checkpoint folder")

    @field_validator("set")
    @classmethod
    def _overrides(cls, overrides: list[str]) -> list[str]:
        if wrong := [text for text in overrides if not text.partition("=")[0].strip() or "=" not in text]:
            raise ValueError(f"{wrong[0]!r} is no override; write KEY=VALUE, as in lr=0.001")
        return overrides

    @model_validator(mode="after")
    def _check(self) -> "ModelEntry":
        if (self.config is None) == (self.model_name is None):
            raise ValueError("name a run's JSON file or folder as config (or xeb/gpt-2's model_name, not both)")
        return self

    def cleaner(self) -> Sanitizer:
        """What makes an answer speakable; without rules it changes nothing. $DIXIE_NAMES are xeb/gpt-2's names."""
        names = os.environ.get("DIXIE_NAMES")
        return Sanitizer.of(self.sanitizer or (), names=names.split(",") if names else None)

    def source(self) -> tuple[str, list[str], dict[str, Any]]:
        """The JSON file to read, its overrides, and keys that it lacks. UserError: xeb/gpt-2's folder is incomplete."""
        if self.config is not None:
            folder = Path(self.config)
            return str(folder / "config.json" if folder.is_dir() else self.config), self.set, {}
        folder = Path(DIXIE_FOLDER) / str(self.model_name)
        file = folder / "hparams.json"
        if not file.is_file():
            raise UserError(f"model_name: {file} is missing; name a folder below {DIXIE_FOLDER}/, or use config")
        names = {"model_path": str(folder), "encoder_path": str(folder), "init_from": self.restore_from or str(folder)}
        return str(file), self.set, {"train_batch_size": 1, "max_steps": 1, **names}


class ServerConfig(Section):
    """The server's JSON file."""

    models: list[ModelEntry] = Field(min_length=1, description="models that are served")
    host: str = Field("127.0.0.1", description="address to listen on; addresses other than loopback need keys")
    port: int = Field(8000, ge=0, le=65535, description="port; 0 takes a free one")
    keys: Annotated[str | None, UserPaths] = Field(None, description="file of API keys; see --new_key")
    memory_bytes: int | None = Field(
        None, gt=0, le=2**62, description="budget of all loaded models; null is 80 % of the device's memory"
    )
    cors: list[str] = Field([], description='origins that browsers may call from, or ["*"]')
    slots: int = Field(16, gt=0, le=1024, description="requests of a model that are decoded together")
    chunk: int = Field(
        128, gt=0, le=2**16, description="tokens of a prompt that are computed between two steps of the other requests"
    )
    cache_bytes: int = Field(
        2**32, gt=0, le=2**50, description="keys and values of a model's slots; fewer slots where they do not fit"
    )
    prefix_bytes: int = Field(
        2**28, ge=0, le=2**50, description="keys and values that a model keeps of earlier prompts, which new ones reuse"
    )
    queue: int = Field(256, gt=0, le=2**16, description="requests of a model that may wait")
    queue_per_key: int = Field(256, gt=0, le=2**16, description="requests of one API key that may wait")
    timeout: float = Field(600, gt=0, le=86400, description="seconds of a request, its wait included")
    load_timeout: float = Field(300, gt=0, le=86400, description="seconds that a request waits for its model")
    drain: float = Field(30, ge=0, le=3600, description="seconds for running requests after SIGTERM")
    max_tokens: int = Field(2**16, gt=0, description="new tokens that one answer may ask for")
    chat_max_tokens: int = Field(256, gt=0, description="new tokens of a chat's answer that names no limit")
    max_body_bytes: int = Field(4 << 20, gt=0, le=2**31, description="size of a request")
    receive_timeout: float = Field(30, gt=0, le=3600, description="seconds for a request to arrive")
    max_connections: int = Field(1000, gt=0, le=2**16, description="open connections")
    reload: float = Field(0, ge=0, le=86400, description="seconds between looks for newer checkpoints; 0 is never")
    alexa: AlexaConfig | None = Field(None, description="Alexa skills; see docs/alexa.md")
    debug: int | bool | None = Field(None, description="xeb/gpt-2: read and ignored")

    @field_validator("models")
    @classmethod
    def _unique(cls, models: list[ModelEntry]) -> list[ModelEntry]:
        keys = [model.key for model in models]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"several models have the key {', '.join(sorted(repeated))}; give each its own")
        return models

    @field_validator("cors")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        """Origins as browsers write them: https://host, without a slash at the end."""
        bare = [origin.removesuffix("/").lower() for origin in origins]
        named = zip(origins, bare, strict=True)
        if wrong := [origin for origin, found in named if found != "*" and not ORIGIN.fullmatch(found)]:
            host = wrong[0].rpartition("://")[2].partition("/")[0] or "HOST"
            raise ValueError(f"{wrong[0]!r} is not the origin of a page; write https://{host}, without a path")
        return bare

    @property
    def engine(self) -> EngineConfig:
        """Limits of each model's engine."""
        values = {
            name: getattr(self, name) for name in ("slots", "queue", "chunk", "timeout", "cache_bytes", "prefix_bytes")
        }
        return EngineConfig(owner_queue=self.queue_per_key, **values)

    @model_validator(mode="after")
    def _skills(self) -> "ServerConfig":
        keys = {model.key for model in self.models}
        if self.alexa and (unknown := set(self.alexa.skills.values()) - keys):
            raise ValueError(f"alexa.skills: no model has the key {', '.join(sorted(unknown))}")
        return self


def read(path: str, flags: Mapping[str, Any]) -> ServerConfig:
    """Reads a server's JSON file; raises one UserError that lists every problem.

    flags: keys that the command line gives, which override the file's.
    """
    return checked(config.read(path), flags, source=path)


def checked(values: Mapping[str, Any], flags: Mapping[str, Any], *, source: str) -> ServerConfig:
    """The configuration in some values. flags: as for `read`."""
    try:
        return ServerConfig(**{**values, **flags})
    except pydantic.ValidationError as error:
        typed = {key: f"--{key}" for key in flags}
        raise config.located(source, [_describe(problem) for problem in error.errors()], typed=typed) from None


def _describe(problem: Any) -> str:
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    parts, section = _written(problem["loc"])
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such key{config.did_you_mean(str(parts[-1]), section.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] in ("value_error", "missing") else f", but it is {config.short(problem['input'])}"
    return f"{place}: {message[0].lower()}{message[1:]}{given}"


def _written(place: Sequence[int | str]) -> tuple[list[int | str], type[pydantic.BaseModel]]:
    """A place in the file without pydantic's names of types, and the section that it is in."""
    parts: list[int | str] = []
    section: type[pydantic.BaseModel] = ServerConfig
    for part in place:
        if parts[-1:] == ["sanitizer"] and part in KINDS:
            continue
        if isinstance(part, str) and "sanitizer" in parts and isinstance(parts[-1], int) and part in RULES:
            section = RULES[part]
            continue
        section = {"models": ModelEntry, "alexa": AlexaConfig}.get(str(part), section) if not parts else section
        parts.append(part)
    return parts, section
