"""Adafactor as ConnorJL/GPT2 had it, for declared parameters.

optax's factors the two largest dims; this one the rows and columns that are declared, for each layer on its own.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runtime.params import ParamSpec, map_specs

Dims = tuple[int, ...]

EPSILON = 1e-30  # added to squared gradients
MIN_SCALE = 1e-3  # weights smaller than this (biases start at 0) step as if they were of this size


class AdafactorState(NamedTuple):
    """Steps taken, and averages of squared gradients over the columns and over the rows of each matrix."""

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

    keep: count of steps -> how much of the running means is kept. relative: false leaves out the size of the parameter.
    weight_decay: a tree of rates; the seed decays the weights first, then takes their size.
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
    """A vector counts as a matrix of one column: there mean(r) = c, and g * sqrt(mean(r) / (r c)) = g / sqrt(r)."""
    return spec.row_dims or spec.column_dims


def _columns(spec: ParamSpec) -> Dims:
    return spec.column_dims if spec.row_dims else ()


def _mean(spec: ParamSpec, values: jax.Array, dims: Dims) -> jax.Array:
    """Mean over dims, which are kept with size 1; the zeros of the padding are not counted."""
    return jnp.sum(values, axis=dims, keepdims=True) / math.prod(spec.used_shape[dim] for dim in dims)
