"""Optimizers: adam, adafactor, sgd, muon; learning rate schedules; what is decayed.

Each is an optax chain of the same three links: a step (direction times learning rate), decoupled weight decay (rate
times learning rate, on the parameters that the declarations choose), a change of sign. What optax has is optax's;
Adam's epsilon and Adafactor are written here because ConnorJL/GPT2's runs should continue with the same numbers.

All state is float32. An array of the state lies at the path of its parameter and has its dims, of size 1 where it was
averaged over, so that it can be sharded like the parameter. Zero padding of a parameter stays zero and counts nowhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field, model_validator

from runtime import schedules
from runtime.adafactor import scale_by_adafactor
from runtime.config import Problem, Section
from runtime.errors import UserError
from runtime.muon import is_hidden_matrix, scale_by_muon
from runtime.params import map_specs

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


class OptimizerConfig(Section):
    """Optimizer."""

    opt_name: Literal["adam", "adafactor", "sgd", "muon"] = Field(
        "adam", description="adam (AdamW when weight_decay is given), adafactor, sgd with momentum, or muon"
    )
    lr: float = Field(0.00025, ge=0, description="peak learning rate; adafactor's is relative, see relative_lr")
    lr_min: float = Field(0.0, ge=0, description="learning rate at the end of every schedule but constant")
    schedule: Literal["constant", "cosine", "linear", "cosine_restarts", "wsd"] | None = Field(
        None,
        description="of the learning rate after the warmup; wsd is warmup, stable, decay; null: cosine when"
        " warmup_steps is given, else constant",
    )
    warmup_steps: int | None = Field(None, ge=0, description="steps over which lr rises from 0; null: none")
    restart_steps: int | None = Field(None, gt=0, description="length of a period of cosine_restarts")
    decay_fraction: float = Field(0.2, gt=0, le=1, description="last part of the run, in which wsd decays linearly")
    weight_decay: float | None = Field(
        None, ge=0, description="decoupled weight decay, multiplied by the learning rate; null: none"
    )
    decay_all: bool = Field(False, description="decay biases and gains too, as the seed did")
    grad_clip: float | None = Field(1.0, gt=0, description="largest global norm of the gradient; null: no clipping")
    beta1: float | None = Field(
        None, ge=0, lt=1, description="average of gradients; null: 0.9, with adafactor 0.0 (no momentum, less memory)"
    )
    beta2: float = Field(
        0.98, ge=0, lt=1, description="average of squared gradients; adafactor reads it if decay_type is adam"
    )
    epsilon: float = Field(1e-9, gt=0, description="added to the root of adam's average of squared gradients")
    decay_type: Literal["pow", "adam"] = Field(
        "pow", description="how adafactor averages squared gradients: 1 - step^-decay_exponent, or beta2 as in adam"
    )
    decay_exponent: float = Field(0.8, gt=0, description="see decay_type")
    relative_lr: bool = Field(
        True, description="adafactor: lr is relative to the size (root mean square) of each weight matrix"
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="sgd (null: 0.9) and muon's matrices (null: 0.95, Nesterov)"
    )
    ns_steps: int = Field(5, gt=0, description="muon: Newton-Schulz iterations")

    @model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        if self.schedule == "cosine_restarts" and self.restart_steps is None:
            raise Problem("restart_steps", "missing, and schedule cosine_restarts needs it; write steps per period")
        if self.lr_min > self.lr:
            raise Problem("lr_min", f"{self.lr_min:g} is above lr {self.lr:g}; write a smaller one")
        return self


class Optimizer(NamedTuple):
    """What a training step needs.

    transform: `update(gradients, state, params)` gives what to add to the parameters; it does not clip.
    learning_rate: of a step, counted before the update, so the first is step 0.
    grad_clip: largest global norm of the gradient, or None. Clipping is left to the caller, who has the norm.
    """

    transform: optax.GradientTransformation
    learning_rate: Schedule
    grad_clip: float | None

    def clip(self, gradients: Any, *, norm: jax.Array) -> Any:
        """Gradients scaled down to the norm `grad_clip` if their global norm, `norm`, is above it."""
        if self.grad_clip is None:
            return gradients
        scale = jnp.minimum(1.0, self.grad_clip / norm)
        return jax.tree.map(lambda gradient: gradient * scale, gradients)


def make(config: OptimizerConfig, specs: Any, *, total_steps: int) -> Optimizer:
    """The optimizer for declared parameters; `total_steps` is where the learning rate has reached its end.

    Raises UserError when the warmup is longer than the run.
    """
    learning_rate = make_schedule(config, total_steps=total_steps)
    beta1 = 0.9 if config.beta1 is None else config.beta1
    adam = _scale_by_adam(beta1, config.beta2, config.epsilon)
    rate = config.weight_decay or 0.0
    decayed = map_specs(lambda spec: bool(rate) and (config.decay_all or spec.decay), specs)
    match config.opt_name:
        case "adam":
            step = optax.chain(adam, optax.scale_by_schedule(learning_rate))
        case "adafactor":
            # The average is over finished steps, the learning rate included.
            momentum = optax.ema(config.beta1, debias=False) if config.beta1 else optax.identity()
            scaled = scale_by_adafactor(
                specs,
                learning_rate,
                keep=partial(_adafactor_decay, config),
                relative=config.relative_lr,
                weight_decay=map_specs(lambda spec, decays: rate * decays, specs, decayed),
            )
            step = optax.chain(scaled, momentum)
        case "sgd":
            trace = optax.trace(0.9 if config.momentum is None else config.momentum)
            step = optax.chain(trace, optax.scale_by_schedule(learning_rate))
        case "muon":
            labels = map_specs(lambda spec: "muon" if is_hidden_matrix(spec) else "adam", specs)
            muon = scale_by_muon(
                specs, momentum=0.95 if config.momentum is None else config.momentum, ns_steps=config.ns_steps
            )
            step = optax.chain(
                optax.partition({"muon": muon, "adam": adam}, labels), optax.scale_by_schedule(learning_rate)
            )
    decay = optax.add_decayed_weights(lambda count: rate * learning_rate(count), mask=decayed)
    transform = optax.chain(step, decay, optax.scale(-1.0))
    return Optimizer(transform, learning_rate, config.grad_clip)


def warnings(config: OptimizerConfig) -> list[str]:
    """Settings that are allowed and known to hurt, each with what to write instead."""
    found = []
    if config.opt_name == "adafactor" and config.relative_lr and config.lr < 1e-3:
        found.append(
            f"lr {config.lr:g} is relative with adafactor: a step is lr times the size of the weights, here 50 to 1000"
            " times smaller than Adam's; write lr 0.01 with warmup_steps, or relative_lr false"
        )
    if config.decay_all and config.weight_decay:
        found.append("decay_all: weight decay pulls gains to 0 too; leave it out unless you repeat an old run")
    return found


def make_schedule(config: OptimizerConfig, *, total_steps: int) -> Schedule:
    """Learning rate (float32) of a step: 0 at step 0 of a warmup, lr at its end, lr_min from `total_steps` on."""
    warmup = config.warmup_steps or 0
    if warmup > total_steps:
        raise UserError(f"warmup_steps: {warmup:,} is more than the {total_steps:,} steps of the run; write fewer")
    kind = config.schedule or ("constant" if config.warmup_steps is None else "cosine")
    start = max(warmup, total_steps - round(config.decay_fraction * total_steps)) if kind == "wsd" else warmup
    period = config.restart_steps or total_steps

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(step, jnp.float32)
        share = schedules.remaining(kind, count, start=start, end=total_steps, period=period)
        return jnp.where(
            count < warmup, config.lr * count / max(warmup, 1), config.lr_min + (config.lr - config.lr_min) * share
        )

    return learning_rate


def _scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam's direction with epsilon as TensorFlow adds it: to sqrt(nu) before the bias correction ("epsilon hat").

    optax.scale_by_adam adds it after, which is 1 / sqrt(1 - beta2^t) times less of it in early steps.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros, nu=zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        correction = jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
        direction = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return direction, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def _adafactor_decay(config: OptimizerConfig, count: jax.Array) -> jax.Array:
    """How much of the running means is kept: 0 in the first step (count 0), so that they need no bias correction."""
    t = jnp.asarray(count, jnp.float32) + 1
    if config.decay_type == "pow":
        return 1 - t**-config.decay_exponent
    return config.beta2 * (1 - config.beta2 ** (t - 1)) / (1 - config.beta2**t)
