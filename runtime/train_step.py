"""The training step: loss, gradient, update, as one function that is compiled whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimizers import Optimizer


class TrainState(NamedTuple):
    """All that training changes."""

    step: jax.Array
    params: Any
    optimizer: Any


def train_step(loss: Callable[..., tuple[jax.Array, jax.Array]], optimizer: Optimizer, *, accumulation: int, seed: int):
    """The function (state, batch) -> (state, metrics) of one optimizer step.

    loss: (params, batch, dropout key) -> (sum, weight).
    batch: leaves [accumulation, examples, ...]. The gradient is that of sum / weight over the whole batch, however it
    is cut. An update that is not finite leaves parameters and optimizer as they were; metrics["finite"] tells.
    """
    sum_and_gradient = jax.value_and_grad(loss, has_aux=True)

    def part(values: Any, batch: Any, key: jax.Array):
        (total, weight), gradient = sum_and_gradient(values, batch, key)
        return total, weight, gradient

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulation == 1:
            total, weight, gradient = part(state.params, jax.tree.map(lambda leaf: leaf[0], batch), key)
        else:

            def accumulate(sums: Any, indexed: Any):
                index, rows = indexed
                return jax.tree.map(jnp.add, sums, part(state.params, rows, jax.random.fold_in(key, index))), None

            zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
            (total, weight, gradient), _ = jax.lax.scan(accumulate, zero, (jnp.arange(accumulation), batch))

        gradient = jax.tree.map(lambda leaf: leaf / weight, gradient)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(total)
        gradient = optimizer.clip(gradient, norm=norm)
        updates, slots = optimizer.transform.update(gradient, state.optimizer, state.params)
        values = optax.apply_updates(state.params, updates)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            """A select, which fuses with the update, and not a branch, which would have to wait for the gradient.
            Counts of steps go on: the schedule ends when the run does."""
            return new if jnp.issubdtype(new.dtype, jnp.integer) else jnp.where(finite, new, old)

        values, slots = jax.tree.map(keep, (values, slots), (state.params, state.optimizer))
        metrics = {
            "loss": total / weight,
            "grad_norm": norm,
            "lr": optimizer.learning_rate(state.step),
            "finite": finite,
        }
        return TrainState(state.step + 1, values, slots), metrics

    return step


def several_steps(step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]):
    """(state, batches, count) -> (state, metrics), both of `count` steps, which may be fewer than there are batches."""

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
