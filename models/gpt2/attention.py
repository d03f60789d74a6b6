"""Causal self-attention behind one signature.

Letters of the shapes: B batch, T queries, S keys, H heads, K head width.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from models.gpt2 import blocked, flash

Implementation = Literal["reference", "blocked", "cudnn", "flash"]


def attention(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    *,
    implementation: Implementation,
    positions_BT: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, each query seeing the keys up to its own position. Returns [B, T, H, K].

    positions_BT: the position of each query among the keys, when decoding with a cache; None: query t is at t.
    segments_BT: int32; tokens see those of their own number only.
    dropout: of the attention weights, when a key is given.
    """
    seen_BTS = None if segments_BT is None else segments_BT[:, :, None] == segments_BT[:, None]
    if positions_BT is None and implementation == "cudnn":
        mask = None if seen_BTS is None else seen_BTS[:, None]
        return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, mask=mask, is_causal=True, implementation="cudnn")
    if positions_BT is None and implementation == "flash":
        return flash.attention(q_BTHK, k_BSHK, v_BSHK, segments_BT)
    if positions_BT is None and implementation == "blocked":
        return blocked.attention(q_BTHK, k_BSHK, v_BSHK, segments_BT, dropout=dropout, key=key)
    if positions_BT is None:
        positions_BT = jnp.arange(q_BTHK.shape[1])[None]
    return reference(q_BTHK, k_BSHK, v_BSHK, positions_BT=positions_BT, seen_BTS=seen_BTS, dropout=dropout, key=key)


def reference(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    *,
    positions_BT: jax.Array,
    seen_BTS: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """The formula written out, with the softmax in float32."""
    scale = 1 / math.sqrt(q_BTHK.shape[-1])
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK * scale, k_BSHK, preferred_element_type=jnp.float32)
    past_BTS = jnp.arange(k_BSHK.shape[1]) <= positions_BT[..., None]
    seen_BTS = past_BTS if seen_BTS is None else past_BTS & seen_BTS
    scores_BHTS = jnp.where(seen_BTS[:, None], scores_BHTS, -jnp.inf)
    weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BSHK.dtype)
    if key is not None and dropout:
        kept = jax.random.bernoulli(key, 1 - dropout, weights_BHTS.shape)
        weights_BHTS = jnp.where(kept, weights_BHTS / (1 - dropout), 0)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)
