"""CPU kernels (C++ in native/) as JAX functions: one pass over memory where XLA makes many.

Each training kernel has a hand-written gradient, takes float32 and bfloat16, and computes in float32. The kernels need
whole arrays, so they do not run on sharded ones.

Letters of the shapes: B batch, T tokens, H heads, K head width, D width, E embedding width, V vocabulary; N rows or
tokens, F outputs; R slots of S positions.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from estimator.system import native_build

FLOAT32 = jnp.float32
SOURCES = Path(__file__).with_name("native")
NAMES = (
    "gpt2_attention",
    "gpt2_attention_backward",
    "gpt2_cached_attention",
    "gpt2_gelu",
    "gpt2_gelu_backward",
    "gpt2_layer_norm",
    "gpt2_layer_norm_backward",
    "gpt2_nll",
    "gpt2_pack",
    "gpt2_packed_product",
    "gpt2_unpacked",
)
NORM_ROWS = 64  # rows per thread in the reduction of gain gradients
PARTS, DIVIDED_BYTES = 8, 1 << 23  # of the tokens of a loss with more than so many bytes of scores


def obstacle(platform: str | None = None) -> str | None:
    """Reason why the kernels cannot run in this process or on `platform` ("gpu"); None if they can."""
    platform = platform or jax.default_backend()
    return (
        f"needs a CPU, and this is {platform}" if platform != "cpu" else native_build.load(SOURCES, "native.cc", NAMES)
    )


def call(name: str, results, *arguments: jax.Array, aliases: dict[int, int] | None = None, **attributes):
    return jax.ffi.ffi_call(f"gpt2_{name}", results, input_output_aliases=aliases)(*arguments, **attributes)


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Causal attention [B, T, H, K] without T x T residuals. Arguments as in `attention.attention`."""
    batch, n_tokens = q_BTHK.shape[:2]
    first_BT = jnp.zeros((batch, n_tokens), jnp.int32)
    if segments_BT is not None:  # first position of each token's segment
        begins_BT = segments_BT != jnp.roll(segments_BT, 1, axis=1)
        first_BT = jax.lax.cummax(jnp.where(begins_BT, jnp.arange(n_tokens, dtype=jnp.int32), 0), axis=1)
    # Seeds of the mask that dropout.keep_mask makes for [B, H, T, T].
    seeds = jnp.zeros(2, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)
    return _attention(0.0 if key is None else dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    return _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)[0]


def _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    arguments = (q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)
    batch, n_tokens, heads, _ = q_BTHK.shape
    results = (like(q_BTHK), jax.ShapeDtypeStruct((batch, heads, n_tokens), FLOAT32))
    out_BTHK, log_sums_BHT = call("attention", results, *arguments, dropout=np.float32(dropout))
    return out_BTHK, (*arguments, out_BTHK, log_sums_BHT)


def _attention_backward(dropout, kept, d_BTHK):
    results = [like(kept[0])] * 3
    dq, dk, dv = call("attention_backward", results, *kept, d_BTHK, dropout=np.float32(dropout))
    return dq, dk, dv, None, None


_attention.defvjp(_attention_forward, _attention_backward)


@jax.custom_vjp
def layer_norm(x_BTD: jax.Array, g: jax.Array, b: jax.Array) -> jax.Array:
    """Same as `ops.layer_norm`."""
    return call("layer_norm", like(x_BTD), x_BTD, g, b)


def layer_norm_backward(kept: tuple[jax.Array, ...], dy_BTD: jax.Array, *, again: bool = False):
    """With n = (x - mean) / deviation and d = dy g: dx = (d - mean(d) - n mean(d n)) / deviation, dg = sum(dy n).

    Returns dx, dg, db and, if `again`, the layer norm.
    """
    x_BTD, g, b = kept
    parts = jax.ShapeDtypeStruct((-(-x_BTD.size // len(g) // NORM_ROWS), len(g)), FLOAT32)
    y = like(x_BTD) if again else jax.ShapeDtypeStruct((0,), x_BTD.dtype)
    dx, dg, db, y = call("layer_norm_backward", (like(x_BTD), parts, parts, y), x_BTD, g, b, dy_BTD)
    return (dx, dg.sum(0), db.sum(0), y)[: 3 + again]


layer_norm.defvjp(lambda *kept: (layer_norm(*kept), kept), layer_norm_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Same as `ops.gelu`."""
    return call("gelu", like(x), x)


def gelu_backward(x: jax.Array, dy: jax.Array, *, again: bool = False) -> tuple[jax.Array, ...]:
    """dx and, if `again`, the GELU."""
    y = like(x) if again else jax.ShapeDtypeStruct((0,), x.dtype)
    return tuple(call("gelu_backward", (like(x), y), x, dy))[: 1 + again]


gelu.defvjp(lambda x: (gelu(x), x), gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def nll(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int) -> jax.Array:
    """Same as `ops.nll`."""
    return _nll(hidden_BTE, head_VE, targets_BT, n_vocab, has_gradient=False)[0]


def _nll(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int, *, has_gradient: bool):
    """The loss [B, T] and its gradient with respect to the scores [C, B, N, V], in the dtype of `hidden_BTE`.

    The C parts of N tokens of each row take turns, so that all scores never exist in float32.
    """
    head_VE, targets_BT = head_VE.astype(hidden_BTE.dtype), targets_BT.astype(jnp.int32)

    def part(hidden_BNE: jax.Array, targets_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores_BNV = jnp.einsum("bne,ve->bnv", hidden_BNE, head_VE, preferred_element_type=FLOAT32)
        gradient = jax.ShapeDtypeStruct(scores_BNV.shape if has_gradient else (0,), hidden_BTE.dtype)
        results = (jax.ShapeDtypeStruct(targets_BN.shape, FLOAT32), gradient)
        return call("nll", results, scores_BNV, targets_BN, n_vocab=np.int32(n_vocab))

    is_large = targets_BT.size * len(head_VE) * FLOAT32.dtype.itemsize > DIVIDED_BYTES
    n_parts = next(n for n in range(PARTS if is_large else 1, 0, -1) if targets_BT.shape[1] % n == 0)
    divided = _divided(hidden_BTE, n_parts), _divided(targets_BT, n_parts)
    nll_CBN, d_CBNV = jax.lax.map(lambda arrays: part(*arrays), divided)
    return _joined(nll_CBN), d_CBNV


def _divided(x: jax.Array, n_parts: int) -> jax.Array:
    """[B, T, ...] -> [n_parts, B, T / n_parts, ...]."""
    return jnp.moveaxis(x.reshape(len(x), n_parts, -1, *x.shape[2:]), 1, 0)


def _joined(x: jax.Array) -> jax.Array:
    """The reverse of `_divided`."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _nll_forward(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int):
    nll_BT, d_CBNV = _nll(hidden_BTE, head_VE, targets_BT, n_vocab, has_gradient=True)
    return nll_BT, (hidden_BTE, head_VE, d_CBNV)


def _nll_backward(n_vocab: int, kept: tuple[jax.Array, ...], d_BT: jax.Array):
    hidden_BTE, head_VE, d_CBNV = kept
    dtype, n_parts = hidden_BTE.dtype, len(d_CBNV)
    d_CBNV = (d_CBNV.astype(FLOAT32) * _divided(d_BT, n_parts)[..., None]).astype(dtype)
    d_hidden = jnp.einsum("cbnv,ve->cbne", d_CBNV, head_VE.astype(dtype), preferred_element_type=FLOAT32).astype(dtype)
    # As [E, V]: for [V, E] XLA transposes all scores, and without the barrier it makes this that.
    hidden_CBNE = _divided(hidden_BTE, n_parts)
    d_head_EV = jnp.einsum("cbne,cbnv->ev", hidden_CBNE, d_CBNV, preferred_element_type=FLOAT32)
    return _joined(d_hidden), jax.lax.optimization_barrier(d_head_EV).T, None


nll.defvjp(_nll_forward, _nll_backward)
