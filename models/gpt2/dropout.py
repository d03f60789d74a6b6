"""Dropout with a cheap counter-based generator.

Threefry, JAX's default, takes about a hundred instructions per number. A dropout mask only has to look independent
across elements and keys, so each element hashes its row and column with two integers drawn from the key. The mask is
computed where it is used and does not depend on the sharding.
"""

import jax
import jax.numpy as jnp
import numpy as np


def dropped(x: jax.Array, rate: float, key: jax.Array | None, *, rows: tuple[int, int] | None = None) -> jax.Array:
    """Dropout (Srivastava et al. 2014): x / (1 - rate) or 0; returns x if key is None or rate is 0.

    rows: (first, count) if x holds the rows (second-to-last dim) from `first` on of an array with `count` rows.
    """
    if key is None or not rate:
        return x
    return jnp.where(keep_mask(key, rate, x.shape, rows=rows), x / (1 - rate), 0)


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...], *, rows: tuple[int, int] | None = None) -> jax.Array:
    """Returns bool [shape], True with probability 1 - rate (rounded to multiples of 2^-32)."""
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
    """Bijective 32-bit hash (lowbias32, Wellons 2018)."""
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16
