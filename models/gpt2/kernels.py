"""The C++ of native/ as JAX's functions, for CPUs: where XLA makes many passes over memory, these make one.

Each has its gradient written out, takes float32 and bfloat16, and computes in float32. They see whole arrays: where
arrays are divided over devices they cannot be used.

Letters of the shapes: B batch, T tokens, H heads, K head width, D width, E embedding width, V vocabulary; N rows,
F outputs; S slots.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from runtime import native

FLOAT32 = jnp.float32
SOURCES = Path(__file__).with_name("native")
NAMES = (
    "gpt2_attention",
    "gpt2_attention_backward",
    "gpt2_few_queries",
    "gpt2_few_rows",
    "gpt2_gelu",
    "gpt2_gelu_backward",
    "gpt2_layer_norm",
    "gpt2_layer_norm_backward",
    "gpt2_nll",
    "gpt2_nll_backward",
)
NORM_ROWS = 64  # whose parts of the gradient of a gain are added up by one thread


def obstacle(platform: str | None = None) -> str | None:
    """Why they cannot be used by this process, or on a platform ("gpu"); None if they can."""
    platform = platform or jax.default_backend()
    return f"needs a CPU, and this is {platform}" if platform != "cpu" else native.load(SOURCES, "native.cc", NAMES)


def _call(name: str, results, *arguments: jax.Array, **attributes):
    return jax.ffi.ffi_call(f"gpt2_{name}", results)(*arguments, **attributes)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


# Training.


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Causal attention [B, T, H, K]; for the arguments see `attention.attention`. Nothing of size T x T is kept."""
    batch, n_tokens = q_BTHK.shape[:2]
    first_BT = jnp.zeros((batch, n_tokens), jnp.int32)
    if segments_BT is not None:  # where each token's segment begins
        begins_BT = segments_BT != jnp.roll(segments_BT, 1, axis=1)
        first_BT = jax.lax.cummax(jnp.where(begins_BT, jnp.arange(n_tokens, dtype=jnp.int32), 0), axis=1)
    # Of the mask that dropout.kept makes from the key for [B, H, T, T].
    seeds = jnp.zeros(2, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)
    return _attention(0.0 if key is None else dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    return _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)[0]


def _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    arguments = (q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)
    batch, n_tokens, heads, _ = q_BTHK.shape
    results = (_like(q_BTHK), jax.ShapeDtypeStruct((batch, heads, n_tokens), FLOAT32))
    out_BTHK, log_sums_BHT = _call("attention", results, *arguments, dropout=np.float32(dropout))
    return out_BTHK, (*arguments, out_BTHK, log_sums_BHT)


def _attention_backward(dropout, kept, d_BTHK):
    results = [_like(kept[0])] * 3
    dq, dk, dv = _call("attention_backward", results, *kept, d_BTHK, dropout=np.float32(dropout))
    return dq, dk, dv, None, None


_attention.defvjp(_attention_forward, _attention_backward)


@jax.custom_vjp
def layer_norm(x_BTD: jax.Array, g: jax.Array, b: jax.Array) -> jax.Array:
    """As `operations.layer_norm`."""
    return _call("layer_norm", _like(x_BTD), x_BTD, g, b)


def _layer_norm_backward(kept: tuple[jax.Array, jax.Array], dy_BTD: jax.Array):
    """With n = (x - mean) / deviation and d = dy g: dx = (d - mean(d) - n mean(d n)) / deviation, dg = sum(dy n)."""
    x_BTD, g = kept
    parts = jax.ShapeDtypeStruct((-(-x_BTD.size // len(g) // NORM_ROWS), len(g)), FLOAT32)
    dx, dg, db = _call("layer_norm_backward", (_like(x_BTD), parts, parts), x_BTD, g, dy_BTD)
    return dx, dg.sum(0), db.sum(0)


layer_norm.defvjp(lambda x, g, b: (layer_norm(x, g, b), (x, g)), _layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """As `operations.gelu`."""
    return _call("gelu", _like(x), x)


gelu.defvjp(lambda x: (gelu(x), x), lambda x, dy: (_call("gelu_backward", _like(x), x, dy),))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def nll(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int) -> jax.Array:
    """As `operations.nll`."""
    return _nll_forward(hidden_BTE, head_VE, targets_BT, n_vocab)[0]


def _nll_forward(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int):
    head_VE, targets_BT = head_VE.astype(hidden_BTE.dtype), targets_BT.astype(jnp.int32)
    scores_BTV = jnp.einsum("bte,ve->btv", hidden_BTE, head_VE, preferred_element_type=FLOAT32)
    result = jax.ShapeDtypeStruct(targets_BT.shape, FLOAT32)
    nll_BT, total_BT = _call("nll", (result, result), scores_BTV, targets_BT, n_vocab=np.int32(n_vocab))
    return nll_BT, (hidden_BTE, head_VE, targets_BT, scores_BTV, total_BT)


def _nll_backward(n_vocab: int, kept: tuple[jax.Array, ...], d_BT: jax.Array):
    hidden_BTE, head_VE, targets_BT, scores_BTV, total_BT = kept
    result = jax.ShapeDtypeStruct(scores_BTV.shape, hidden_BTE.dtype)
    arguments = (scores_BTV, targets_BT, total_BT, d_BT)
    d_BTV = _call("nll_backward", result, *arguments, n_vocab=np.int32(n_vocab))
    d_hidden = jnp.einsum("btv,ve->bte", d_BTV, head_VE, preferred_element_type=FLOAT32).astype(hidden_BTE.dtype)
    return d_hidden, jnp.einsum("btv,bte->ve", d_BTV, hidden_BTE, preferred_element_type=FLOAT32), None


nll.defvjp(_nll_forward, _nll_backward)


# Generation.


def few_rows(x_ND: jax.Array, matrix_FD: jax.Array, scales: jax.Array) -> jax.Array:
    """x times the rows of a matrix, float32 [N, F]; x is float32, and the matrix as `few_rows.RowMatrix` stores it."""
    return _call("few_rows", jax.ShapeDtypeStruct((len(x_ND), len(matrix_FD)), FLOAT32), x_ND, matrix_FD, scales)


def few_queries(q_BHK: jax.Array, k: jax.Array, v: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Attention of one query a row, divided by sqrt(K), to the slots up to its position.

    k, v: [B * H, S, K]; all float32.
    """
    return _call("few_queries", _like(q_BHK), q_BHK, k, v, positions_B)
