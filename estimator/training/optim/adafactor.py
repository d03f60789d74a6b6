"""Adafactor as in ConnorJL/GPT2, for declared parameters.

Our own code, because optax factors the two largest dims, and here each layer's declared rows and columns are factored.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from estimator.parallel.param_spec import ParamSpec, map_specs

Dims = tuple[int, ...]

EPSILON = 1e-30  # added to squared gradients
MIN_SCALE = 1e-3  # lower bound of the parameter scale (biases start at 0)


class AdafactorState(NamedTuple):
    """Step count, and running means of squared gradients over each matrix's columns and rows."""

    count: jax.Array
    rows: Any
    columns: Any


def scale_by_adafactor(
    specs: Any,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    keep: Callable[[jax.Array], jax.Array],
    relative: bool,
    weight_decay: Any,
) -> optax.GradientTransformation:
    """Adafactor's step (Shazeer and Stern 2018) as tensor2tensor and ConnorJL/GPT2 compute it, before momentum.

    For each matrix of each layer, with r and c the running means of g^2 over its columns and rows:
    x = g * sqrt(mean(r) / (r c));  x /= max(1, RMS(x));  step = lr * max(RMS(parameter), 1e-3) * x.

    keep: step count -> decay of the running means. relative: false omits the parameter scale.
    weight_decay: a tree of rates; ConnorJL/GPT2 decays the weights before it computes their scale.
    """

    def init(params: Any) -> AdafactorState:
        def zeros(averaged: Callable[[ParamSpec], Dims]) -> Any:
            def shape(spec: ParamSpec) -> list[int]:
                return [1 if dim in averaged(spec) else size for dim, size in enumerate(spec.shape)]

            return map_specs(lambda spec: jnp.zeros(shape(spec), jnp.float32), specs)

        return AdafactorState(jnp.zeros([], jnp.int32), zeros(_columns), zeros(_rows))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdafactorState]:
        lr, kept = learning_rate(state.count), keep(state.count)

        def averages(old: Any, averaged: Callable[[ParamSpec], Dims]) -> Any:
            def average(spec: ParamSpec, v: jax.Array, g: jax.Array) -> jax.Array:
                return kept * v + (1 - kept) * (_mean(spec, g * g, averaged(spec)) + EPSILON)

            return map_specs(average, specs, old, updates)

        def step(spec: ParamSpec, g: jax.Array, p: jax.Array, r: jax.Array, c: jax.Array, rate: float) -> jax.Array:
            whole = _rows(spec) + _columns(spec)
            x = g * (jax.lax.rsqrt(r) * jnp.sqrt(_mean(spec, r, _rows(spec)))) * jax.lax.rsqrt(c)
            x = x / jnp.maximum(1.0, jnp.sqrt(_mean(spec, x * x, whole)))
            if not relative:
                return lr * x
            size = jnp.sqrt(_mean(spec, p * p, whole)) * (1 - lr * rate)
            return lr * jnp.maximum(size, MIN_SCALE) * x

        rows, columns = averages(state.rows, _columns), averages(state.columns, _rows)
        steps = map_specs(step, specs, updates, params, rows, columns, weight_decay)
        return steps, AdafactorState(state.count + 1, rows, columns)

    return optax.GradientTransformation(init, update)


def _rows(spec: ParamSpec) -> Dims:
    """Row dims. A vector is a matrix of one column: mean(r) = c, so g * sqrt(mean(r) / (r c)) = g / sqrt(r)."""
    return spec.row_dims or spec.column_dims


def _columns(spec: ParamSpec) -> Dims:
    return spec.column_dims if spec.row_dims else ()


def _mean(spec: ParamSpec, values: jax.Array, dims: Dims) -> jax.Array:
    """Mean over dims with keepdims; padding is not counted."""
    return jnp.sum(values, axis=dims, keepdims=True) / math.prod(spec.used_shape[dim] for dim in dims)
