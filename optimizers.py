"""Optimizers (adam, adafactor, sgd, muon), learning-rate schedules and weight decay, for the keys in `OptimizerConfig`.

Each optimizer is an optax chain: direction times learning rate, decoupled weight decay (rate times learning rate, for
parameters declared with decay), change of sign. Adam's epsilon and Adafactor are our own code, so that runs of
ConnorJL/GPT2 continue with the same numbers.

All state is float32. A state array has the path and dims of its parameter, with size 1 where it was averaged, so it is
sharded like the parameter. Zero padding of a parameter stays zero and is not counted.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimator.parallel.param_spec import map_specs
from estimator.training.optim.adafactor import scale_by_adafactor
from estimator.training.optim.config import OptimizerConfig as OptimizerConfig
from estimator.training.optim.config import warnings as warnings
from estimator.training.optim.muon import is_hidden_matrix, scale_by_muon
from estimator.training.train_step import Optimizer, Schedule


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


def make_schedule(config: OptimizerConfig, *, total_steps: int) -> Schedule:
    """Returns step -> learning rate (float32): 0 at step 0 of a warmup, lr at its end, lr_min from `total_steps` on."""
    warmup = config.warmup(total_steps)
    kind = config.schedule_name
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
