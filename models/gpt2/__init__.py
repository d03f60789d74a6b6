"""GPT-2 for the Estimator."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

import optimizers
from estimator.estimator import EstimatorSpec, Mode
from estimator.interop import gpt2_config
from estimator.parallel.hardware import fast_precision
from estimator.setup import Planning, Setup
from models.gpt2 import flops, lora
from models.gpt2 import model as gpt2
from models.gpt2.attention.select_backend import Choice, choose
from models.gpt2.config import GPT2Config
from models.gpt2.convert import init_from, readers
from models.gpt2.convert.init_from import InitFromConfig
from models.gpt2.decode.sampler import Sampler
from models.gpt2.likelihood import score
from models.gpt2.lora import FineTuneConfig
from optimizers import OptimizerConfig


class Config(FineTuneConfig, InitFromConfig, GPT2Config):
    """Model."""

    @classmethod
    def function(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        # n_vocab ends the softmax; another one may have a table of the same padded shape.
        found = {key: values[key] for key in (*gpt2_config.FUNCTION, "n_vocab") if key in values}
        rank = values.get("lora_rank")
        return found | {"lora_alpha": lora.alpha(rank, values.get("lora_alpha"))} if rank else found


class Params(NamedTuple):
    """Inputs of `model_fn`.

    total_steps: end of the learning-rate schedule. vocabulary: returns the folder of the vocabulary. platform: target
    platform of a rehearsal ("tpu"); None for this process's devices.
    """

    model: Config
    optimizer: OptimizerConfig
    total_steps: int
    vocabulary: Callable[[], Path] | None = None
    platform: str | None = None


def model_fn(params: Params, mode: Mode) -> EstimatorSpec:
    """Builds the EstimatorSpec, with the fastest attention that can run on the devices."""
    config = _resolved(params.model, params.platform)
    specs = lora.parameters(config)
    make = partial(optimizers.make, params.optimizer, total_steps=params.total_steps)
    implementation = attention_choice(config, mode, platform=params.platform).implementation
    return EstimatorSpec(
        parameters=specs,
        loss=lora.loss(partial(gpt2.loss, config=config, implementation=implementation), specs, config),
        optimizer=lora.optimizer(make, specs, config) if mode == "train" else None,
        score=partial(_score, config=config, platform=params.platform),
        predictor=partial(Sampler, config=config, merge=partial(lora.merged, config=config)),
        initial=init_from.make(params, mode),
        tokens_per_example=config.n_ctx,
        flops_per_token=flops.flops_per_token(config),
        activation_bytes=flops.activation_bytes(config, implementation),
        frozen=lora.frozen(specs, config),
        frozen_layers=config.freeze_layers,
        copy_bytes=lora.copy_bytes(config),
        loss_scaling=config.precision == "float16",
    )


def _score(params: Any, batch: dict[str, jax.Array], *, config: Config, platform: str | None):
    """`likelihood.score` with the fastest attention for the length of the batch, which may be shorter than n_ctx."""
    length = batch["tokens"].shape[1]
    takes_any_length = length == config.n_ctx or config.attention in ("reference", "blocked")
    sized = config if takes_any_length else config.model_copy(update={"attention": "auto"})
    implementation = attention_choice(sized, "eval", platform=platform, length=length).implementation
    return score(lora.merged(params, config), batch, config=config, implementation=implementation)


def attention_choice(config: Config, mode: Mode, *, platform: str | None = None, length: int | None = None) -> Choice:
    """Selects the attention implementation for this process's devices or for `platform`, with the reason.

    length: tokens of a row; None is n_ctx.
    """
    config = _resolved(config, platform)
    return choose(
        config.attention,
        platform=platform or jax.default_backend(),
        dtype=gpt2.compute_dtype(config),
        head_width=config.head_width,
        n_ctx=length or config.n_ctx,
        dropout=config.attn_dropout if mode == "train" else 0.0,
    )


def _resolved(config: Config, platform: str | None) -> Config:
    """Replaces precision "auto" by the dtype for this process's devices or for `platform`."""
    if config.precision != "auto":
        return config
    return config.model_copy(update={"precision": fast_precision(platform)})


def complete(
    values: dict[str, Any],
    parsed: Callable[..., Setup],
    *,
    source: str,
    planning: Planning,
    warn: Callable[[str], object],
) -> dict[str, Any]:
    """The keys of a file with those that its key `budget` leaves open."""
    from models.gpt2.dial import plan

    return plan.complete(values, parsed, source=source, planning=planning, warn=warn)


def initial_vocabulary(config: Config) -> Path | None:
    """The folder of the vocabulary of the weights that a run begins with; None where none is known."""
    return readers.vocabulary(config.init_from) if config.init_from else None


def warnings(config: Config) -> list[str]:
    """Describes settings that are allowed but known to hurt, with better ones."""
    if config.init_from:
        return []
    found = []
    if config.scale_by_in:
        found.append(
            "scale_by_in is true: weights start far smaller than GPT-2's and learn worse; write false to start well"
        )
    if config.lora_rank:
        found.append(
            "lora_rank: without init_from, all but the adapters are random weights that stay; name weights there"
        )
    return found
