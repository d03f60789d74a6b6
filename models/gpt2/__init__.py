"""GPT-2 for the Estimator."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

import optimizers
from estimator import EstimatorSpec, Mode
from models.gpt2 import costs, gpt2, start, tuning
from models.gpt2.attention_choice import Choice, choose
from models.gpt2.gpt2 import GPT2Config
from models.gpt2.sample import Sampler
from models.gpt2.start import StartConfig
from models.gpt2.tuning import TuningConfig
from optimizers import OptimizerConfig
from runtime.hardware import fast_bfloat16


class Config(TuningConfig, StartConfig, GPT2Config):
    """Model."""


class Params(NamedTuple):
    """What `model_fn` builds from.

    total_steps: where the learning rate ends. vocabulary: tells the run's folder of it. platform: of other devices than
    those here ("tpu"), for a rehearsal.
    """

    model: Config
    optimizer: OptimizerConfig
    total_steps: int
    vocabulary: Callable[[], Path] | None = None
    platform: str | None = None


def model_fn(params: Params, mode: Mode) -> EstimatorSpec:
    """The model as the Estimator wants it, computed by the fastest attention that can run here."""
    config = _resolved(params.model, params.platform)
    specs = tuning.parameters(config)
    make = partial(optimizers.make, params.optimizer, total_steps=params.total_steps)
    implementation = attention_choice(config, mode, platform=params.platform).implementation
    return EstimatorSpec(
        parameters=specs,
        loss=tuning.loss(partial(gpt2.loss, config=config, implementation=implementation), specs, config),
        optimizer=tuning.optimizer(make, specs, config) if mode == "train" else None,
        predictor=lambda params, **options: Sampler(tuning.merged(params, config), config=config, **options),
        initial=start.make(params, mode),
        tokens_per_example=config.n_ctx,
        flops_per_token=costs.flops_per_token(config),
        activation_bytes=costs.activation_bytes(config, implementation),
        frozen=tuning.frozen(specs, config),
        copy_bytes=tuning.copy_bytes(config),
    )


def attention_choice(config: Config, mode: Mode, *, platform: str | None = None) -> Choice:
    """The program that computes attention on this process's devices, or on those of a platform, and why."""
    config = _resolved(config, platform)
    return choose(
        config.attention,
        platform=platform or jax.default_backend(),
        dtype=config.dtype,
        head_width=config.head_width,
        n_ctx=config.n_ctx,
        dropout=config.attn_dropout if mode == "train" else 0.0,
    )


def _resolved(config: Config, platform: str | None) -> Config:
    """The configuration with the precision that "auto" is on this process's devices, or on those of a platform."""
    if config.precision != "auto":
        return config
    return config.model_copy(update={"precision": "bfloat16" if fast_bfloat16(platform) else "float32"})


def warnings(config: Config) -> list[str]:
    """Settings that are allowed and known to hurt, each with what to write instead."""
    if not config.scale_by_in:
        return []
    return [
        "scale_by_in: weights start far smaller than GPT-2's and learn worse; write false, but to repeat an old run"
    ]
