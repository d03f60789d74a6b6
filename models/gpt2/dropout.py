"""Which numbers a dropout keeps, from a generator that costs less than what it decides about.

Threefry, JAX's own, spends some hundred instructions on a number. Of a dropout's mask nothing is asked but that it
looks independent from element to element and from key to key, so here a number is a hash of its place: two integers
are drawn from the key, and each element mixes them with its row and column. It is computed where it is used, the same
however the array is divided over devices.
"""

import jax
import jax.numpy as jnp
import numpy as np


def dropped(x: jax.Array, rate: float, key: jax.Array | None, *, rows: tuple[int, int] | None = None) -> jax.Array:
    """x / (1 - rate), or 0 in places that the key determines; x itself without a key or a rate (Srivastava 2014).

    rows: (first, count) says that x is a part of an array with `count` rows (the dim before the last), from `first` on.
    """
    if key is None or not rate:
        return x
    return jnp.where(kept(key, rate, x.shape, rows=rows), x / (1 - rate), 0)


def kept(key: jax.Array, rate: float, shape: tuple[int, ...], *, rows: tuple[int, int] | None = None) -> jax.Array:
    """bool [shape]: True with probability 1 - rate, which is rounded to multiples of 2^-32."""
    row_seed, column_seed = jax.random.bits(key, (2,), jnp.uint32)
    first, count = rows or (0, shape[-2] if len(shape) > 1 else 1)
    row = jnp.zeros(shape[:-1], jnp.uint32)
    for dim, size in enumerate((*shape[:-2], count)[: len(shape) - 1]):
        row = row * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape[:-1], dim)
    row += np.uint32(first)
    row = _mixed(_mixed(row ^ row_seed) ^ column_seed)
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1) * np.uint32(0x9E3779B9)
    return _mixed(row[..., None] ^ column) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each bit of x changes half of the result's (lowbias32, Wellons 2018)."""
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16
