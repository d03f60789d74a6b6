"""What generation keeps of the tokens seen so far, and attention to it.

Letters of the shapes: B rows, T new tokens, H heads, K head width, N = B H, S slots, which fill from the left.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.gpt2 import kernels


class Cache(NamedTuple):
    """Keys and values of each layer, and how many slots of each row are filled."""

    k: list[jax.Array]  # [N, S, K]: what a head has kept lies together
    v: list[jax.Array]
    length: jax.Array  # int32 [B]


def extended(cache: Cache | int, kept: list[tuple[jax.Array, jax.Array]], n_tokens: int) -> Cache:
    """The cache with what the layers kept: its slots, or, of a new one of so many, the tokens' own [B, T, H, K]."""
    if isinstance(cache, Cache):
        keys, values = zip(*kept, strict=True)
        return Cache(list(keys), list(values), cache.length + n_tokens)
    rows = len(kept[0][0])
    keys, values = ([_begun(part, cache) for part in parts] for parts in zip(*kept, strict=True))
    return Cache(keys, values, jnp.full(rows, n_tokens, jnp.int32))


def _begun(new_BTHK: jax.Array, slots: int) -> jax.Array:
    new_NTK = _by_head(new_BTHK)
    return jnp.pad(new_NTK, ((0, 0), (0, slots - new_NTK.shape[1]), (0, 0)))


def _by_head(x_BTHK: jax.Array) -> jax.Array:
    """[N, T, K]"""
    rows, n_tokens, heads, width = x_BTHK.shape
    return x_BTHK.transpose(0, 2, 1, 3).reshape(rows * heads, n_tokens, width)


def put(slots_NSK: jax.Array, new_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """The slots with new keys or values at each row's own positions, which follow each other."""
    rows, _, heads, _ = new_BTHK.shape
    new_NTK = _by_head(new_BTHK)
    if rows == 1:  # written in place, where the rows' own positions make a loop of it
        return jax.lax.dynamic_update_slice_in_dim(slots_NSK, new_NTK, positions_BT[0, 0], axis=1)
    each = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
    return each(slots_NSK, new_NTK, jnp.repeat(positions_BT[:, 0], heads))


def cached(q_BTHK: jax.Array, k_NSK: jax.Array, v_NSK: jax.Array, *, positions_BT: jax.Array) -> jax.Array:
    """Attention [B, T, H, K] of queries at `positions_BT` (int32) to the slots up to their own; float32 softmax."""
    rows, n_tokens, heads, width = q_BTHK.shape
    q_BTHK = q_BTHK * (1 / math.sqrt(width))
    if n_tokens == 1 and k_NSK.dtype == jnp.float32 and not kernels.obstacle():
        return kernels.few_queries(q_BTHK[:, 0], k_NSK, v_NSK, positions_BT[:, 0])[:, None]
    q_NTK = _by_head(q_BTHK)
    scores_NTS = jnp.einsum("ntk,nsk->nts", q_NTK, k_NSK, preferred_element_type=jnp.float32)
    seen_NTS = jnp.arange(k_NSK.shape[1]) <= jnp.repeat(positions_BT, heads, axis=0)[..., None]
    weights_NTS = jax.nn.softmax(jnp.where(seen_NTS, scores_NTS, -jnp.inf), axis=-1).astype(v_NSK.dtype)
    out_NTK = jnp.einsum("nts,nsk->ntk", weights_NTS, v_NSK)
    return out_NTK.reshape(rows, heads, n_tokens, width).transpose(0, 2, 1, 3)
