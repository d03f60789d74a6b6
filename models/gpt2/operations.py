"""The operations of GPT-2 that cost something, each with its gradient written out.

A derived gradient keeps what it likes in float32 and multiplies in whatever type it meets. Written out, only inputs
are kept, in their own type; what is computed elementwise is computed in float32; and each matrix product has the form
that is fast where it runs: on CPUs, bfloat16 products are two to three times faster when their result is float32 and
the batch dims are not merged.

Letters of the shapes are those of models.gpt2.gpt2.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from models.gpt2.few_rows import RowMatrix
from runtime.mesh import split

FLOAT32 = jnp.float32
DENSE = "dense"  # the results of `dense`, to those who choose what the backward pass keeps


def product(dims: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum of two arrays of one type, summed in float32, in the type of the arrays."""
    if a.dtype == FLOAT32:
        return jnp.einsum(dims, a, b)
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: jnp.einsum(dims, a, b, preferred_element_type=FLOAT32).astype(a.dtype),
        default=partial(jnp.einsum, dims),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def dense(dims: str, x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    """einsum(dims, x, w) + b, in the type of x; b is float32, and its dims are the last of the result."""
    return (product(dims, x, w) + b).astype(x.dtype)


def _dense_forward(dims: str, x: jax.Array, w: jax.Array, b: jax.Array):
    # A policy of jax.checkpoint does not find products within platform_dependent, but it finds names.
    return checkpoint_name(dense(dims, x, w, b), DENSE), (x, w, b)


def _dense_backward(dims: str, kept: tuple[jax.Array, ...], dy: jax.Array):
    x, w, b = kept
    inputs, y_dims = dims.split("->")
    x_dims, w_dims = inputs.split(",")
    dx = product(f"{y_dims},{w_dims}->{x_dims}", dy, w)
    dw = product(f"{x_dims},{y_dims}->{w_dims}", x, dy)
    db = dy.sum(range(dy.ndim - b.ndim), dtype=FLOAT32)
    return dx, dw, db


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), with the tanh approximation of Phi (Hendrycks and Gimpel 2016, section 2)."""
    return jax.nn.gelu(x.astype(FLOAT32), approximate=True).astype(x.dtype)


def _gelu_backward(x: jax.Array, dy: jax.Array):
    x_ = x.astype(FLOAT32)
    phi = 0.5 + 0.5 * jnp.tanh(math.sqrt(2 / math.pi) * (x_ + 0.044715 * x_**3))
    slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x_**2)
    return ((dy.astype(FLOAT32) * (phi + x_ * phi * (1 - phi) * slope)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def layer_norm(x_BTD: jax.Array, g: jax.Array, b: jax.Array) -> jax.Array:
    """Ba et al. 2016, with gain g and bias b, [D]; epsilon 1e-5 and the biased variance, as GPT-2."""
    x = x_BTD.astype(FLOAT32)
    mean = x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-5)
    return ((x - mean) * scale * g + b).astype(x_BTD.dtype)


def scores(hidden: jax.Array, head_VE: jax.Array | RowMatrix, *, n_vocab: int) -> jax.Array:
    """Scores of the next token, float32 [..., V]; ids from `n_vocab` on are -inf."""
    if isinstance(head_VE, RowMatrix):
        found = head_VE.product(hidden)
    else:
        found = jnp.einsum("...e,ve->...v", hidden, head_VE.astype(hidden.dtype), preferred_element_type=FLOAT32)
    ids = jnp.arange(found.shape[-1])
    return found if len(ids) == n_vocab else jnp.where(ids < n_vocab, found, -jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def nll(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int) -> jax.Array:
    """Negative log-likelihood of the targets in nats, float32 [B, T].

    head_VE: the output matrix, float32; multiplied in the type of `hidden_BTE`.
    """
    return _nll_forward(hidden_BTE, head_VE, targets_BT, n_vocab)[0]


def _nll_forward(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int):
    scores_BTV = split(scores(hidden_BTE, head_VE, n_vocab=n_vocab), "batch", None, "vocab")
    chosen_BT = jnp.take_along_axis(scores_BTV, targets_BT[..., None], axis=-1)[..., 0]
    total_BT = jax.nn.logsumexp(scores_BTV, axis=-1)
    return total_BT - chosen_BT, (hidden_BTE, head_VE, targets_BT, scores_BTV, total_BT)


def _nll_backward(n_vocab: int, kept: tuple[jax.Array, ...], d_BT: jax.Array):
    hidden_BTE, head_VE, targets_BT, scores_BTV, total_BT = kept
    dtype = hidden_BTE.dtype
    is_target = jnp.arange(head_VE.shape[0]) == targets_BT[..., None]
    d_BTV = ((jnp.exp(scores_BTV - total_BT[..., None]) - is_target) * d_BT[..., None]).astype(dtype)
    d_hidden = product("btv,ve->bte", d_BTV, head_VE.astype(dtype))
    d_head = jnp.einsum("btv,bte->ve", d_BTV, hidden_BTE, preferred_element_type=FLOAT32)
    return d_hidden, d_head, None


nll.defvjp(_nll_forward, _nll_backward)
