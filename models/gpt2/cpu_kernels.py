"""CPU kernels (C++ in native/) as JAX functions: one pass over memory where XLA makes many.

Each training kernel has a hand-written gradient, takes float32 and bfloat16, and computes in float32. The kernels need
whole arrays, so they do not run on sharded ones.

Letters of the shapes: B batch, T tokens, H heads, K head width, D width, E embedding width, V vocabulary; N rows or
tokens, F outputs; R slots of S positions.
"""

import functools
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from estimator.system import native_build
from models.gpt2.tile_product import tile_product

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
    "gpt2_tile_nll",
    "gpt2_tile_product",
    "gpt2_unpacked",
)
PARTS, DIVIDED_BYTES = 8, 1 << 23  # of the tokens of a loss with more than so many bytes of scores
TILE_SCORES, TILE_TOKENS = 1 << 21, 160  # of a loss in tiles that exist at a time: so many, but of no fewer tokens


def obstacle(platform: str | None = None) -> str | None:
    """Reason why the kernels cannot run in this process or on `platform` ("gpu"); None if they can."""
    platform = platform or jax.default_backend()
    is_cpu = platform == "cpu"
    return native_build.load(SOURCES, "native.cc", NAMES) if is_cpu else f"needs a CPU, and this is {platform}"


@functools.cache
def has_tiles() -> bool:
    """Whether this processor multiplies bfloat16, with AMX or AVX-512, and the compiler has the instructions."""
    return obstacle() is None and native_build.flag(SOURCES, "native.cc", "gpt2_has_tiles")


def call(name: str, results, *arguments: jax.Array, aliases: dict[int, int] | None = None, **attributes):
    return jax.ffi.ffi_call(f"gpt2_{name}", results, input_output_aliases=aliases)(*arguments, **attributes)


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def product(
    dims: str, a: jax.Array, b: jax.Array, bias: jax.Array | None = None, *, dtype: jnp.dtype | None = None
) -> jax.Array:
    """Same as `ops.product`, in `dtype` or that of a; the dims are those that `tile_product` takes."""
    dtype = dtype or a.dtype
    if in_tiles(a):
        return tile_product(dims, a, b, bias, dtype=dtype)[0]
    found = jnp.einsum(dims, a, b, preferred_element_type=FLOAT32)
    return (found if bias is None else found + bias).astype(dtype)


def product_and_sums(dims: str, a: jax.Array, b: jax.Array, *, n_dims: int) -> tuple[jax.Array, jax.Array]:
    """Same as `ops.product_and_sums`."""
    if in_tiles(a):
        y, sums = tile_product(dims, a, b, has_sums=True)
        return y, sums.reshape(b.shape[b.ndim - n_dims :])
    return product(dims, a, b), b.sum(range(b.ndim - n_dims), dtype=FLOAT32)


def in_tiles(a: jax.Array) -> bool:
    """Whether products with this array are computed in tiles."""
    return a.dtype == jnp.bfloat16 and has_tiles()


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Causal attention [B, T, H, K] without T x T residuals. Arguments as in `model.attention`."""
    batch, n_tokens = q_BTHK.shape[:2]
    first_BT = jnp.zeros((batch, n_tokens), jnp.int32)
    if segments_BT is not None:  # first position of each token's segment
        begins_BT = segments_BT != jnp.roll(segments_BT, 1, axis=1)
        first_BT = jax.lax.cummax(jnp.where(begins_BT, jnp.arange(n_tokens, dtype=jnp.int32), 0), axis=1)
    # Seeds of the mask that layers.keep_mask makes for [B, H, T, T].
    seeds = jnp.zeros(2, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)
    return _attention(0.0 if key is None else dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    return _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)[0]


def _attention_forward(dropout, q_BTHK, k_BTHK, v_BTHK, first_BT, seeds):
    arguments = (q_BTHK, k_BTHK, v_BTHK, first_BT, seeds)
    batch, n_tokens, heads, _ = q_BTHK.shape
    results = (like(q_BTHK), jax.ShapeDtypeStruct((batch, heads, n_tokens), FLOAT32))
    options = {"dropout": np.float32(dropout), "in_tiles": in_tiles(q_BTHK)}
    out_BTHK, log_sums_BHT = call("attention", results, *arguments, **options)
    return out_BTHK, (*arguments, out_BTHK, log_sums_BHT)


def _attention_backward(dropout, kept, d_BTHK):
    options = {"dropout": np.float32(dropout), "in_tiles": in_tiles(kept[0])}
    dq, dk, dv = call("attention_backward", [like(kept[0])] * 3, *kept, d_BTHK, **options)
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
    y = like(x_BTD) if again else jax.ShapeDtypeStruct((0,), x_BTD.dtype)
    return tuple(call("layer_norm_backward", (like(x_BTD), like(g), like(b), y), x_BTD, g, b, dy_BTD))[: 3 + again]


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
    if in_tiles(hidden_BTE):
        width, n_tokens = len(head_VE), targets_BT.size
        rows = min(n_tokens, max(TILE_TOKENS, TILE_SCORES // width // 32 * 32))
        gradient = jax.ShapeDtypeStruct((n_tokens, width) if has_gradient else (0, 0), hidden_BTE.dtype)
        results = (
            jax.ShapeDtypeStruct(targets_BT.shape, FLOAT32),
            gradient,
            jax.ShapeDtypeStruct((rows, width), FLOAT32),
        )
        hidden_NE = hidden_BTE.reshape(n_tokens, -1)
        nll_BT, d_NV, _ = call("tile_nll", results, hidden_NE, head_VE, targets_BT, n_vocab=np.int32(n_vocab))
        return nll_BT, (d_NV.reshape(1, *targets_BT.shape, width) if has_gradient else d_NV)

    def part(hidden_BNE: jax.Array, targets_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores_BNV = product("bne,ve->bnv", hidden_BNE, head_VE, dtype=FLOAT32)
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

    def weighted(x: jax.Array) -> jax.Array:  # what has fewer numbers than the scores
        return (x * _divided(d_BT, n_parts)[..., None]).astype(dtype)

    d_hidden = weighted(product("cbnv,ve->cbne", d_CBNV, head_VE.astype(dtype), dtype=FLOAT32))
    # As [E, V]: for [V, E] XLA transposes all scores, and without the barrier it makes this that.
    hidden_CBNE = weighted(_divided(hidden_BTE, n_parts).astype(FLOAT32))
    d_head_EV = product("cbne,cbnv->ev", hidden_CBNE, d_CBNV, dtype=FLOAT32)
    return _joined(d_hidden), jax.lax.optimization_barrier(d_head_EV).T, None


nll.defvjp(_nll_forward, _nll_backward)
