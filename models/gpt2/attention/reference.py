"""Causal self-attention by the plain formula."""

import math

import jax
import jax.numpy as jnp

from models.gpt2.layers import dropped


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """With a float32 softmax; for the arguments see `model.attention`."""
    scale = 1 / math.sqrt(q_BTHK.shape[-1])
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK * scale, k_BTHK, preferred_element_type=jnp.float32)
    seen = jnp.tri(q_BTHK.shape[1], dtype=bool)
    if segments_BT is not None:
        seen = (seen & (segments_BT[:, :, None] == segments_BT[:, None]))[:, None]
    weights_BHTS = jax.nn.softmax(jnp.where(seen, scores_BHTS, -jnp.inf), axis=-1).astype(v_BTHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", dropped(weights_BHTS, dropout, key), v_BTHK)
