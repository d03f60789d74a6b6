"""Random arrays, and functions of them with their gradients, in few compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(*shape: int, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    """Draws from N(0, 1) with NumPy, since JAX compiles a program for each shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)).astype(dtype)


def draw_tokens(n_vocab: int, *shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, n_vocab, shape), jnp.int32)


def with_gradients(function, arguments, dy: jax.Array) -> list[jax.Array]:
    """Returns the value and its gradients, given the gradient dy of the value."""

    @jax.jit  # one program compiles faster than each of its operations
    def compute(arguments, dy):
        result, pull = jax.vjp(function, *arguments)
        return [result, *pull(dy.astype(result.dtype))]

    return compute(arguments, dy)
