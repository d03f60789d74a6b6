"""Causal self-attention behind one signature, and the choice of the program that computes it.

Letters of the shapes: B batch, T queries, S keys, H heads, K head width.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.gpt2 import flash
from runtime.errors import UserError

Implementation = Literal["reference", "cudnn", "flash"]


class Choice(NamedTuple):
    """A program and why it was taken."""

    implementation: Implementation
    reason: str

    def __str__(self) -> str:
        return f"attention: {self.implementation} ({self.reason})"


def choose(requested: str, *, platform: str, dtype: jnp.dtype, head_width: int, n_ctx: int, dropout: float) -> Choice:
    """The program for `requested` ("auto", "reference", "cudnn" or "flash") on a platform ("cpu", "gpu", "tpu").

    "auto" takes the fastest that can run and says why; what was asked for by name and cannot run is a UserError.
    """
    if requested == "reference":
        return Choice("reference", "asked for")
    obstacles: dict[Implementation, str | None] = {
        "cudnn": _cudnn_obstacle(platform, dtype, head_width, n_ctx, dropout),
        "flash": _flash_obstacle(platform, n_ctx, dropout),
    }
    if requested == "auto":
        native: Implementation = {"gpu": "cudnn", "tpu": "flash"}.get(platform, "reference")  # type: ignore[assignment]
        if native == "reference":
            return Choice("reference", f"nothing faster for {platform}")
        obstacle = obstacles[native]
        return Choice("reference", f"{native} {obstacle}") if obstacle else Choice(native, f"fastest on {platform}")
    obstacle = obstacles[requested]  # type: ignore[index]
    if obstacle:
        raise UserError(f'attention: "{requested}" {obstacle}; set attention to "auto"')
    return Choice(requested, "asked for")  # type: ignore[arg-type]


def _cudnn_obstacle(platform: str, dtype: jnp.dtype, head_width: int, n_ctx: int, dropout: float) -> str | None:
    if platform != "gpu":
        return f"needs an NVIDIA GPU, and this is {platform}"
    if dtype != jnp.bfloat16:
        return 'needs precision "bfloat16"'
    if head_width % 8 or head_width > 128:
        return f"needs a head width divisible by 8 and at most 128, and it is {head_width} (width of a block / n_head)"
    if n_ctx % 2:
        return f"needs an even n_ctx, and it is {n_ctx}"
    if dropout:
        return "has no attention dropout; attn_dropout 0 makes it possible"
    return None


def _flash_obstacle(platform: str, n_ctx: int, dropout: float) -> str | None:
    if platform != "tpu":
        return f"needs a TPU, and this is {platform}"
    if n_ctx % 128:
        return f"needs an n_ctx divisible by 128, and it is {n_ctx}"
    if dropout:
        return "has no attention dropout; attn_dropout 0 makes it possible"
    return None


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
