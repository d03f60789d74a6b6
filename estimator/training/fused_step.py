"""The training step as one compiled program, for accelerators, and several steps as one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimator.training.bad_steps import OutlierBounds
from estimator.training.train_step import NO_BOUNDS, Optimizer, TrainState, gradient_step, update_step


def train_step(
    loss: Callable[..., tuple[jax.Array, jax.Array]],
    optimizer: Optimizer,
    *,
    accumulation: int,
    seed: int,
    bounds: OutlierBounds = NO_BOUNDS,
):
    """Returns the function (state, batch) -> (state, metrics) of one optimizer step.

    loss: (params, batch, dropout key) -> (sum, weight).
    batch: leaves [accumulation, examples, ...]. The gradient is that of sum / weight over the whole batch, however it
    is split. A non-finite update, or one above the bounds (for states with `recent`), leaves parameters and optimizer
    state unchanged; metrics["finite"] and metrics["accepted"] tell.
    """
    gradient_of = gradient_step(loss, accumulation=accumulation, seed=seed)
    update = update_step(optimizer, bounds=bounds)
    return lambda state, batch: update(state, gradient_of(state, batch))


def several_steps(step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]):
    """Returns (state, batches, count) -> (state, metrics of `count` steps); count may be less than len(batches)."""

    def run(state: TrainState, batches: Any, count: jax.Array):
        def body(i: jax.Array, carry: tuple[TrainState, dict[str, jax.Array]]):
            state, kept = carry
            state, metrics = step(state, jax.tree.map(lambda leaf: leaf[i], batches))
            return state, {name: kept[name].at[i].set(value) for name, value in metrics.items()}

        shapes = jax.eval_shape(step, state, jax.tree.map(lambda leaf: leaf[0], batches))[1]
        room = jax.tree.leaves(batches)[0].shape[0]
        kept = {name: jnp.zeros((room,), shape.dtype) for name, shape in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, kept))

    return run
