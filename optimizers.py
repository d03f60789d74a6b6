"""Optimizers: adam, adafactor, sgd, muon; learning rate schedules; what is decayed.

Each is an optax chain of the same three links: a step (direction times learning rate), decoupled weight decay (rate
times learning rate, on the parameters that the declarations choose), a change of sign. What optax has is optax's;
Adam's epsilon and Adafactor are written here because ConnorJL/GPT2's runs should continue with the same numbers.

All state is float32. An array of the state lies at the path of its parameter and has its dims, of size 1 where it was
averaged over, so that it can be sharded like the parameter. Zero padding of a parameter stays zero and counts nowhere.
"""

import math
import string
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field, model_validator

from runtime.config import Problem, Section
from runtime.errors import UserError
from runtime.params import ParamSpec, map_specs

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
Dims = tuple[int, ...]

ADAFACTOR_EPSILON = 1e-30  # added to squared gradients
ADAFACTOR_MIN_SCALE = 1e-3  # weights smaller than this (biases start at 0) step as if they were of this size
MUON_RMS = 0.2  # of an update at learning rate 1: about Adam's
MUON_DTYPE = jnp.float32  # of the Newton-Schulz products
MUON_SEPARATE_AXIS = "qkv"  # query, key and value are three matrices side by side
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic that grows small singular values fastest (Jordan 2024)


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
    match config.opt_name:
        case "adam":
            step = optax.chain(adam, optax.scale_by_schedule(learning_rate))
        case "adafactor":
            # The average is over finished steps, the learning rate included.
            momentum = optax.ema(config.beta1, debias=False) if config.beta1 else optax.identity()
            step = optax.chain(_adafactor(config, specs, learning_rate), momentum)
        case "sgd":
            trace = optax.trace(0.9 if config.momentum is None else config.momentum)
            step = optax.chain(trace, optax.scale_by_schedule(learning_rate))
        case "muon":
            labels = map_specs(lambda spec: "muon" if _is_hidden_matrix(spec) else "adam", specs)
            parts = optax.partition({"muon": _scale_by_muon(config, specs), "adam": adam}, labels)
            step = optax.chain(parts, optax.scale_by_schedule(learning_rate))
    rate = config.weight_decay or 0.0
    decay = optax.add_decayed_weights(lambda count: rate * learning_rate(count), mask=_decayed(config, specs))
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
    """Learning rate (float32) of a step: 0 at step 0 of a warmup, lr at its end, lr_min from `total_steps` on.

    With schedule cosine and lr_min 0 it is the seed's formula. cosine_restarts (Loshchilov and Hutter 2017, SGDR)
    begins at lr again every restart_steps and has no end of its own.
    """
    warmup = config.warmup_steps or 0
    kind = config.schedule or ("constant" if config.warmup_steps is None else "cosine")
    if warmup > total_steps:
        raise UserError(f"warmup_steps: {warmup:,} is more than the {total_steps:,} steps of the run; write fewer")
    start = warmup
    if kind == "wsd":
        start = max(warmup, total_steps - round(config.decay_fraction * total_steps))

    def remaining(step: jax.Array) -> jax.Array:
        """The part of lr - lr_min that is left."""
        if kind == "constant":
            return jnp.ones_like(step)
        if kind == "cosine_restarts":
            period = config.restart_steps or total_steps
            done = (step - warmup) % period / period
        else:
            done = jnp.clip((step - start) / max(total_steps - start, 1), 0, 1)
        return 0.5 * (1 + jnp.cos(math.pi * done)) if kind.startswith("cosine") else 1 - done

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(step, jnp.float32)
        after = config.lr_min + (config.lr - config.lr_min) * remaining(count)
        return jnp.where(count < warmup, config.lr * count / max(warmup, 1), after)

    return learning_rate


def _decayed(config: OptimizerConfig, specs: Any) -> Any:
    """Whether weight decay applies, a bool a parameter."""
    return map_specs(lambda spec: bool(config.weight_decay) and (config.decay_all or spec.decay), specs)


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


class AdafactorState(NamedTuple):
    """Steps taken, and averages of squared gradients over the columns and over the rows of each matrix."""

    count: jax.Array
    rows: Any
    columns: Any


def _adafactor(config: OptimizerConfig, specs: Any, learning_rate: Schedule) -> optax.GradientTransformation:
    """Adafactor's step (Shazeer and Stern 2018) as tensor2tensor and ConnorJL/GPT2 compute it, before momentum.

    For each matrix of each layer, with r and c the running means of g^2 over its columns and rows:
    x = g * sqrt(mean(r) / (r c));  x /= max(1, RMS(x));  step = lr * max(RMS(parameter), 1e-3) * x.
    """
    decayed = _decayed(config, specs)

    def init(params: Any) -> AdafactorState:
        def zeros(averaged: Callable[[ParamSpec], Dims]) -> Any:
            def shape(spec: ParamSpec) -> list[int]:
                return [1 if dim in averaged(spec) else size for dim, size in enumerate(spec.shape)]

            return map_specs(lambda spec: jnp.zeros(shape(spec), jnp.float32), specs)

        return AdafactorState(jnp.zeros([], jnp.int32), zeros(_columns), zeros(_rows))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdafactorState]:
        lr, keep = learning_rate(state.count), _adafactor_decay(config, state.count)
        shrink = 1 - lr * (config.weight_decay or 0.0)

        def averages(old: Any, averaged: Callable[[ParamSpec], Dims]) -> Any:
            def average(spec: ParamSpec, v: jax.Array, g: jax.Array) -> jax.Array:
                return keep * v + (1 - keep) * (_mean(spec, g * g, averaged(spec)) + ADAFACTOR_EPSILON)

            return map_specs(average, specs, old, updates)

        def step(spec: ParamSpec, g: jax.Array, p: jax.Array, r: jax.Array, c: jax.Array, decays: bool) -> jax.Array:
            whole = _rows(spec) + _columns(spec)
            x = g * (jax.lax.rsqrt(r) * jnp.sqrt(_mean(spec, r, _rows(spec)))) * jax.lax.rsqrt(c)
            x = x / jnp.maximum(1.0, jnp.sqrt(_mean(spec, x * x, whole)))
            if not config.relative_lr:
                return lr * x
            # The seed decays the weights first, then takes their size.
            size = jnp.sqrt(_mean(spec, p * p, whole)) * (shrink if decays else 1.0)
            return lr * jnp.maximum(size, ADAFACTOR_MIN_SCALE) * x

        rows, columns = averages(state.rows, _columns), averages(state.columns, _rows)
        steps = map_specs(step, specs, updates, params, rows, columns, decayed)
        return steps, AdafactorState(state.count + 1, rows, columns)

    return optax.GradientTransformation(init, update)


def _adafactor_decay(config: OptimizerConfig, count: jax.Array) -> jax.Array:
    """How much of the running means is kept: 0 in the first step (count 0), so that they need no bias correction."""
    t = jnp.asarray(count, jnp.float32) + 1
    if config.decay_type == "pow":
        return 1 - t**-config.decay_exponent
    return config.beta2 * (1 - config.beta2 ** (t - 1)) / (1 - config.beta2**t)


def _rows(spec: ParamSpec) -> Dims:
    """A vector counts as a matrix of one column: there mean(r) = c, and g * sqrt(mean(r) / (r c)) = g / sqrt(r)."""
    return spec.row_dims or spec.column_dims


def _columns(spec: ParamSpec) -> Dims:
    return spec.column_dims if spec.row_dims else ()


def _mean(spec: ParamSpec, values: jax.Array, dims: Dims) -> jax.Array:
    """Mean over dims, which are kept with size 1; the zeros of the padding are not counted."""
    return jnp.sum(values, axis=dims, keepdims=True) / math.prod(spec.used_shape[dim] for dim in dims)


def _is_hidden_matrix(spec: ParamSpec) -> bool:
    """Muon is for the matrices between hidden states; embeddings, gains and biases fare better with Adam."""
    return bool(spec.row_dims and spec.stack_dims)


def _scale_by_muon(config: OptimizerConfig, specs: Any) -> optax.GradientTransformation:
    """Muon's direction (Jordan 2024, kellerjordan.github.io/posts/muon): Nesterov momentum, made orthogonal.

    Scaled by 0.2 sqrt(max(rows, columns)), so that its entries are as large as Adam's and share Adam's learning rate
    and weight decay ("Muon is Scalable for LLM Training", Liu et al. 2025, arXiv 2502.16982).
    """

    def direction(updates: Any, params: Any) -> Any:
        def orthogonal(spec: ParamSpec, update: Any) -> Any:
            if not _is_hidden_matrix(spec):
                return update
            columns = tuple(dim for dim in spec.column_dims if spec.axes[dim] != MUON_SEPARATE_AXIS)
            sides = [math.prod(spec.shape[dim] for dim in dims) for dims in (spec.row_dims, columns)]
            matrix = orthogonalize(update, rows=spec.row_dims, columns=columns, steps=config.ns_steps)
            return MUON_RMS * math.sqrt(max(sides)) * matrix

        return map_specs(orthogonal, specs, updates)

    momentum = 0.95 if config.momentum is None else config.momentum
    return optax.chain(optax.trace(momentum, nesterov=True), optax.stateless(direction))


def orthogonalize(x: jax.Array, *, rows: Dims, columns: Dims, steps: int) -> jax.Array:
    """The matrices of x with all singular values brought near 1 (0.7 to 1.2) by Newton-Schulz iterations.

    A matrix has the dims `rows` and `columns`; the other dims count the matrices. Nothing is reshaped, so that the
    dims keep their sharding. X <- a X + (b A + c A A) X with A = X X^T on the shorter side.
    """
    a, b, c = NEWTON_SCHULZ
    sides = (rows, columns)
    short = min(sides, key=lambda dims: math.prod(x.shape[dim] for dim in dims))
    here = string.ascii_lowercase[: x.ndim]

    def other(letters: str) -> str:
        """The dims of x with a second and third name for those of the shorter side."""
        return "".join(letters[dim] if dim in short else name for dim, name in enumerate(here))

    there, beyond = other(string.ascii_uppercase), other(string.ascii_uppercase[x.ndim :])
    batch = "".join(name for dim, name in enumerate(here) if dim not in rows + columns)
    i, j, k = ("".join(names[dim] for dim in short) for names in (here, there, beyond))
    norm = jnp.sqrt(jnp.sum(x * x, axis=rows + columns, keepdims=True))
    x = (x / (norm + 1e-8)).astype(MUON_DTYPE)
    for _ in range(steps):
        gram = jnp.einsum(f"{here},{there}->{batch}{i}{j}", x, x)
        square = jnp.einsum(f"{batch}{i}{j},{batch}{j}{k}->{batch}{i}{k}", gram, gram)
        x = a * x + jnp.einsum(f"{batch}{i}{j},{there}->{here}", b * gram + c * square, x)
    return x.astype(jnp.float32)
