"""Optimizers (adam, adafactor, sgd, muon), learning-rate schedules and weight decay.

Each optimizer is an optax chain: direction times learning rate, decoupled weight decay (rate times learning rate, for
parameters declared with decay), change of sign. Adam's epsilon and Adafactor are our own code, so that runs of
ConnorJL/GPT2 continue with the same numbers.

All state is float32. A state array has the path and dims of its parameter, with size 1 where it was averaged, so it is
sharded like the parameter. Zero padding of a parameter stays zero and is not counted.
"""

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from estimator.config import ConfigError, Section
from estimator.parallel.param_spec import map_specs
from estimator.quantities import numbered
from estimator.training.optim.adafactor import scale_by_adafactor
from estimator.training.optim.muon import is_hidden_matrix, scale_by_muon
from estimator.training.optim.unread_keys import unread_keys
from estimator.training.train_step import Optimizer, Schedule


class OptimizerConfig(Section):
    """Optimizer."""

    opt_name: Literal["adam", "adafactor", "sgd", "muon"] = Field(
        "adam", description="adam (AdamW when weight_decay is given), adafactor, sgd with momentum, or muon"
    )
    lr: float = Field(0.00025, ge=0, description="peak learning rate; adafactor's is relative, see relative_lr")
    lr_min: float = Field(0.0, ge=0, description="final learning rate of all schedules except constant")
    schedule: Literal["constant", "cosine", "linear", "cosine_restarts", "wsd"] | None = Field(
        None,
        description="learning-rate schedule after the warmup; wsd is warmup, stable, decay; null: cosine if"
        " warmup_steps is given, else constant",
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="steps of linear warmup from 0; in a run that has fewer steps, a tenth of the run; null: none",
    )
    restart_steps: int | None = Field(None, gt=0, description="period of cosine_restarts in steps")
    decay_fraction: float = Field(0.2, gt=0, le=1, description="fraction of the run over which wsd decays linearly")
    weight_decay: float | None = Field(
        None, ge=0, description="decoupled weight decay, multiplied by the learning rate; null: none"
    )
    decay_all: bool = Field(False, description="also decay biases and gains, as ConnorJL/GPT2 does")
    grad_clip: float | None = Field(1.0, gt=0, description="largest global gradient norm; null: no clipping")
    beta1: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="decay of Adam's first moment; null: 0.9, with adafactor 0.0 (no momentum, less memory)",
    )
    beta2: float = Field(
        0.98, ge=0, lt=1, description="decay of Adam's second moment; adafactor uses it if decay_type is adam"
    )
    epsilon: float = Field(1e-9, gt=0, description="added to the square root of Adam's second moment")
    decay_type: Literal["pow", "adam"] = Field(
        "pow", description="decay of adafactor's second moment: 1 - step^-decay_exponent (pow), or beta2 (adam)"
    )
    decay_exponent: float = Field(0.8, gt=0, description="see decay_type")
    relative_lr: bool = Field(True, description="adafactor: multiply lr by the root mean square of each parameter")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum of sgd (null: 0.9) and muon (null: 0.95, Nesterov)"
    )
    ns_steps: int = Field(5, gt=0, le=1000, description="number of Newton-Schulz iterations of muon")
    neuron_beta2: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="muon: evens out the updates of a matrix's output neurons (NorMuon), by their second moment with"
        " this decay, such as 0.95; null: leaves them",
    )

    def conflicts(self) -> Iterator[ConfigError]:
        if self.schedule == "cosine_restarts" and self.restart_steps is None:
            yield ConfigError("restart_steps", "missing, and schedule cosine_restarts needs it; write steps per period")
        if self.lr_min > self.lr:
            yield ConfigError("lr_min", f"{self.lr_min:g} is above lr {self.lr:g}; write a smaller one")


def make(config: OptimizerConfig, specs: Any, *, total_steps: int) -> Optimizer:
    """Builds the optimizer for declared parameters; `total_steps` ends the schedule."""
    schedule = make_schedule(config, total_steps=total_steps)
    decayed = map_specs(lambda spec: bool(config.weight_decay) and (config.decay_all or spec.decay), specs)
    return Optimizer(partial(_transform, config, specs, decayed), schedule, config.grad_clip, config.lr)


def _transform(
    config: OptimizerConfig, specs: Any, decayed: Any, learning_rate: Schedule
) -> optax.GradientTransformation:
    """decayed: whether weight decay applies to each parameter."""
    beta1 = 0.9 if config.beta1 is None else config.beta1
    adam = _scale_by_adam(beta1, config.beta2, config.epsilon)
    rate = config.weight_decay or 0.0
    match config.opt_name:
        case "adam":
            step = optax.chain(adam, optax.scale_by_schedule(learning_rate))
        case "adafactor":
            # Momentum averages complete updates, including the learning rate.
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
            momentum_rate = 0.95 if config.momentum is None else config.momentum
            muon = scale_by_muon(
                specs, momentum=momentum_rate, ns_steps=config.ns_steps, neuron_beta2=config.neuron_beta2
            )
            step = optax.chain(
                optax.partition({"muon": muon, "adam": adam}, labels), optax.scale_by_schedule(learning_rate)
            )
    decay = optax.add_decayed_weights(lambda count: rate * learning_rate(count), mask=decayed)
    return optax.chain(step, decay, optax.scale(-1.0))


def warnings(config: OptimizerConfig, *, total_steps: int | None = None) -> list[str]:
    """Describes settings that are allowed but known to hurt, with better ones."""
    found = []
    if total_steps and (config.warmup_steps or 0) > total_steps:
        warmup = _warmup(config, total_steps)
        is_now = f"the warmup has {numbered(warmup, 'step')}, a tenth of the run" if warmup else "there is no warmup"
        found.append(
            f"warmup_steps: {config.warmup_steps:,} is more than the run's {numbered(total_steps, 'step')}; {is_now}"
        )
    if config.opt_name == "adafactor" and config.relative_lr and config.lr < 1e-3:
        found.append(
            f"lr {config.lr:g} is relative with adafactor: a step is lr times the size of the weights, here 50 to 1000"
            " times smaller than Adam's; write lr 0.01 with warmup_steps, or relative_lr false"
        )
    if config.decay_all and config.weight_decay:
        found.append("decay_all: weight decay pulls gains to 0 too; leave it out unless you repeat an old run")
    name, schedule, decays = config.opt_name, _schedule_name(config), bool(config.weight_decay)
    if unread := unread_keys(config, optimizer=name, schedule=schedule, decay_type=config.decay_type, decays=decays):
        settings = f"opt_name {name}, schedule {schedule}, weight_decay {json.dumps(config.weight_decay)}"
        found.append(f"{', '.join(unread)}: no effect with {settings}; leave out or change one of them")
    return found


def make_schedule(config: OptimizerConfig, *, total_steps: int) -> Schedule:
    """Returns step -> learning rate (float32): 0 at step 0 of a warmup, lr at its end, lr_min from `total_steps` on."""
    warmup = _warmup(config, total_steps)
    kind = _schedule_name(config)
    start = max(warmup, total_steps - round(config.decay_fraction * total_steps)) if kind == "wsd" else warmup
    period = config.restart_steps or total_steps

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(step, jnp.float32)
        share = _remaining(kind, count, start=start, end=total_steps, period=period)
        return jnp.where(
            count < warmup, config.lr * count / max(warmup, 1), config.lr_min + (config.lr - config.lr_min) * share
        )

    return learning_rate


def _remaining(kind: str, step: jax.Array, *, start: int, end: int, period: int) -> jax.Array:
    """Fraction (float32, 1 to 0) of the decay that remains at a step, which runs from start to end.

    kind: "constant"; "linear" and "wsd" (both linear); "cosine" (as in ConnorJL/GPT2); "cosine_restarts" (SGDR,
    Loshchilov and Hutter 2017), which returns to 1 every `period` steps and has no end.
    """
    if kind == "constant":
        return jnp.ones_like(step)
    if kind == "cosine_restarts":
        done = (step - start) % period / period
    else:
        done = jnp.clip((step - start) / max(end - start, 1), 0, 1)
    return 0.5 * (1 + jnp.cos(math.pi * done)) if kind.startswith("cosine") else 1 - done


def _schedule_name(config: OptimizerConfig) -> str:
    return config.schedule or ("constant" if config.warmup_steps is None else "cosine")


def _warmup(config: OptimizerConfig, total_steps: int) -> int:
    """Warmup steps; a tenth of the run if warmup_steps exceeds it."""
    warmup = config.warmup_steps or 0
    return warmup if warmup <= total_steps else total_steps // 10


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
    """Decay of the running means: 0 in the first step (count 0), so they need no bias correction."""
    t = jnp.asarray(count, jnp.float32) + 1
    if config.decay_type == "pow":
        return 1 - t**-config.decay_exponent
    return config.beta2 * (1 - config.beta2 ** (t - 1)) / (1 - config.beta2**t)
