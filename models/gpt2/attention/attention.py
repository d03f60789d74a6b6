"""Causal self-attention: one signature for all implementations.

Letters of the shapes: B batch, T queries, S keys, H heads, K head width.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from models.gpt2 import cpu_kernels
from models.gpt2.attention import blockwise, flash_tpu
from models.gpt2.layers import dropped

Implementation = Literal["reference", "blocked", "native", "cudnn", "flash"]


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    *,
    implementation: Implementation,
    segments_BT: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, each query seeing the keys up to its own position. Returns [B, T, H, K].

    segments_BT: int32 segment ids; tokens attend only within their segment.
    dropout: rate on the attention weights, applied if a key is given.
    """
    if implementation == "cudnn":
        mask = None if segments_BT is None else (segments_BT[:, :, None] == segments_BT[:, None])[:, None]
        return jax.nn.dot_product_attention(q_BTHK, k_BTHK, v_BTHK, mask=mask, is_causal=True, implementation="cudnn")
    if implementation == "flash":
        return flash_tpu.attention(q_BTHK, k_BTHK, v_BTHK, segments_BT)
    programs = {"reference": reference, "blocked": blockwise.attention, "native": cpu_kernels.attention}
    return programs[implementation](q_BTHK, k_BTHK, v_BTHK, segments_BT=segments_BT, dropout=dropout, key=key)


def possible(implementation: Implementation) -> Implementation:
    """Replaces "native" on a mesh of several devices, because XLA cannot partition custom calls."""
    divided = not jax.sharding.get_abstract_mesh().empty
    return "blocked" if implementation == "native" and divided else implementation


def reference(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """The plain formula with a float32 softmax."""
    scale = 1 / math.sqrt(q_BTHK.shape[-1])
    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK * scale, k_BTHK, preferred_element_type=jnp.float32)
    seen = jnp.tri(q_BTHK.shape[1], dtype=bool)
    if segments_BT is not None:
        seen = (seen & (segments_BT[:, :, None] == segments_BT[:, None]))[:, None]
    weights_BHTS = jax.nn.softmax(jnp.where(seen, scores_BHTS, -jnp.inf), axis=-1).astype(v_BTHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", dropped(weights_BHTS, dropout, key), v_BTHK)
