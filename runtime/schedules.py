"""Shapes of the learning rate after the warmup."""

import math

import jax
import jax.numpy as jnp


def remaining(kind: str, step: jax.Array, *, start: int, end: int, period: int) -> jax.Array:
    """The part, 1 to 0, of the way down from the peak that is left at a step (float32), going down from start to end.

    kind: "constant"; "linear" and "wsd", which are lines; "cosine", the seed's; "cosine_restarts" (Loshchilov and
    Hutter 2017, SGDR), which is at 1 again every `period` steps and has no end of its own.
    """
    if kind == "constant":
        return jnp.ones_like(step)
    if kind == "cosine_restarts":
        done = (step - start) % period / period
    else:
        done = jnp.clip((step - start) / max(end - start, 1), 0, 1)
    return 0.5 * (1 + jnp.cos(math.pi * done)) if kind.startswith("cosine") else 1 - done
