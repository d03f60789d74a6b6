"""Causal attention by blocks of queries, which skips keys after each block.

For devices without an attention kernel. The plain formula computes every score, of which a third to a half is masked,
and automatic differentiation saves several float32 score matrices. Here the backward pass saves only the weights in the
compute dtype, and all products have forms that are fast on CPUs, where contracting the rows of both operands is five
times slower than contracting the columns of the left one.

Letters of the shapes: B batch, T queries, S keys, H heads, K head width.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from models.gpt2.layers import dropped
from models.gpt2.ops import product

SMALLEST_BLOCK = 128  # queries per block; smaller products are slow
MOST_BLOCKS = 8  # each block is compiled separately; 8 blocks compute 9/16 of the scores, the limit is 1/2

FLOAT32 = jnp.float32
_exact = partial(jnp.einsum, preferred_element_type=FLOAT32)


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Causal attention [B, T, H, K], the softmax in float32; for the arguments see `model.attention`."""
    return _attention(0.0 if key is None else dropout, q_BTHK, k_BTHK, v_BTHK, segments_BT, key)


def _blocks(n_tokens: int) -> list[tuple[int, int]]:
    size = max(SMALLEST_BLOCK, math.ceil(n_tokens / MOST_BLOCKS))
    return [(start, min(start + size, n_tokens)) for start in range(0, n_tokens, size)]


def computed_share(n_tokens: int) -> float:
    """Fraction of the n_tokens x n_tokens scores that is computed."""
    return sum((end - start) * end for start, end in _blocks(n_tokens)) / n_tokens**2


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(dropout, q_BTHK, k_BTHK, v_BTHK, segments_BT, key):
    return _forward(dropout, q_BTHK, k_BTHK, v_BTHK, segments_BT, key)[0]


def _forward(dropout, q_BTHK, k_BTHK, v_BTHK, segments_BT, key):
    q_BHTK, v_BHTK = (x.transpose(0, 2, 1, 3) for x in (q_BTHK, v_BTHK))
    k_BHKT = k_BTHK.transpose(0, 2, 3, 1)
    n_tokens = q_BTHK.shape[1]
    parts, weights = [], []
    for start, end in _blocks(n_tokens):
        scores_BHTS = _scores(q_BHTK[:, :, start:end], k_BHKT[..., :end])
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        if segments_BT is not None:
            seen = (seen & (segments_BT[:, start:end, None] == segments_BT[:, None, :end]))[:, None]
        scores_BHTS = jnp.where(seen, scores_BHTS, -jnp.inf)
        weights.append(jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BTHK.dtype))
        applied_BHTS = dropped(weights[-1], dropout, key, rows=(start, n_tokens))
        parts.append(product("bhts,bhsk->bhtk", applied_BHTS, v_BHTK[:, :, :end]))
    out_BHTK = jnp.concatenate(parts, axis=2)
    return out_BHTK.transpose(0, 2, 1, 3), (q_BHTK, k_BHKT, v_BHTK, out_BHTK, weights, key)


def _scores(q_BHTK: jax.Array, k_BHKS: jax.Array) -> jax.Array:
    products = _exact("bhtk,bhks->bhts", q_BHTK, k_BHKS)
    return products / math.sqrt(q_BHTK.shape[-1])


def _backward(dropout, kept, d_BTHK):
    """With weights p = softmax(s) and result o = p v: dp = do v^T, ds = p (dp - sum(do o)), dq = ds k, dk = ds^T q,
    dv = p^T do (Dao et al. 2022, appendix B.2); dropout multiplies p in o and dv, and dp, by the same numbers."""
    q_BHTK, k_BHKT, v_BHTK, out_BHTK, weights, key = kept
    dtype = q_BHTK.dtype
    do_BHTK, do_BHKT = d_BTHK.transpose(0, 2, 1, 3), d_BTHK.transpose(0, 2, 3, 1)
    q_BHKT, v_BHKT, k_BHTK = (x.swapaxes(2, 3) for x in (q_BHTK, v_BHTK, k_BHKT))
    along_BHT = (do_BHTK.astype(FLOAT32) * out_BHTK.astype(FLOAT32)).sum(-1, keepdims=True)
    n_tokens = q_BHTK.shape[2]
    blocks = _blocks(n_tokens)
    dq, dk, dv = [], [jnp.float32(0)] * len(blocks), [jnp.float32(0)] * len(blocks)
    for (start, end), p_BHTS in zip(blocks, weights, strict=True):
        dp_BHTS = _exact("bhtk,bhks->bhts", do_BHTK[:, :, start:end], v_BHKT[..., :end])
        dp_BHTS = dropped(dp_BHTS, dropout, key, rows=(start, n_tokens))
        ds_BHTS = p_BHTS.astype(FLOAT32) * (dp_BHTS - along_BHT[:, :, start:end]) / math.sqrt(q_BHTK.shape[-1])
        ds_BHTS = ds_BHTS.astype(dtype)
        dq.append(product("bhts,bhsk->bhtk", ds_BHTS, k_BHTK[:, :, :end]))
        dk_BHKS = _exact("bhkt,bhts->bhks", q_BHKT[..., start:end], ds_BHTS)
        applied_BHTS = dropped(p_BHTS, dropout, key, rows=(start, n_tokens))
        dv_BHKS = _exact("bhkt,bhts->bhks", do_BHKT[..., start:end], applied_BHTS)
        for i, (first, last) in enumerate(blocks[: len(dq)]):
            dk[i], dv[i] = dk[i] + dk_BHKS[..., first:last], dv[i] + dv_BHKS[..., first:last]
    d_keys, d_values = (jnp.concatenate(parts, axis=-1).astype(dtype).transpose(0, 3, 1, 2) for parts in (dk, dv))
    return jnp.concatenate(dq, axis=2).transpose(0, 2, 1, 3), d_keys, d_values, None, None


_attention.defvjp(_forward, _backward)
