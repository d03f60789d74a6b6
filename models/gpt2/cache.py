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


def put(slots_NSK: jax.Array, new_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """The slots with new keys or values at each row's own positions, which follow each other."""
    rows, n_tokens, heads, width = new_BTHK.shape
    new_NTK = new_BTHK.transpose(0, 2, 1, 3).reshape(rows * heads, n_tokens, width)
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
    q_NTK = q_BTHK.transpose(0, 2, 1, 3).reshape(rows * heads, n_tokens, width)
    scores_NTS = jnp.einsum("ntk,nsk->nts", q_NTK, k_NSK, preferred_element_type=jnp.float32)
    seen_NTS = jnp.arange(k_NSK.shape[1]) <= jnp.repeat(positions_BT, heads, axis=0)[..., None]
    weights_NTS = jax.nn.softmax(jnp.where(seen_NTS, scores_NTS, -jnp.inf), axis=-1).astype(v_NSK.dtype)
    out_NTK = jnp.einsum("nts,nsk->ntk", weights_NTS, v_NSK)
    return out_NTK.reshape(rows, heads, n_tokens, width).transpose(0, 2, 1, 3)
