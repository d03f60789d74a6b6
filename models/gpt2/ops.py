"""GPT-2's expensive operations with hand-written gradients.

Automatic differentiation saves float32 residuals and multiplies in whichever dtypes it meets. These gradients save only
the inputs in their own dtype, compute elementwise parts in float32, and give each matrix product the form that is fast
on the device: on CPUs, bfloat16 products are two to three times faster if their result is float32 and the batch dims
are not merged.

Letters of the shapes are those of models.gpt2.model.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from estimator.parallel.mesh import constrain
from models.gpt2.decode.quantized import QuantizedMatrix

FLOAT32 = jnp.float32
EPSILON = 1e-5  # epsilon of layer normalization, as in GPT-2
Activation = Literal["gelu_new", "gelu", "quick_gelu", "relu", "relu2", "silu", "tanh"]


def product(dims: str, a: jax.Array, b: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """einsum of two arrays of one dtype: accumulates in float32, returns that dtype.

    bias: float32 array of the last dims of the result, which is added to it.
    """
    if a.dtype == FLOAT32:
        found = jnp.einsum(dims, a, b)
    else:
        found = jax.lax.platform_dependent(
            a,
            b,
            cpu=lambda a, b: jnp.einsum(dims, a, b, preferred_element_type=FLOAT32).astype(a.dtype),
            default=partial(jnp.einsum, dims),
        )
    return found if bias is None else (found + bias).astype(a.dtype)


def product_and_sums(dims: str, a: jax.Array, b: jax.Array, *, n_dims: int) -> tuple[jax.Array, jax.Array]:
    """`product`, and the float32 sums of b over all but its last `n_dims` dims."""
    return product(dims, a, b), b.sum(range(b.ndim - n_dims), dtype=FLOAT32)


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


def _in_float32(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda x: function(x.astype(FLOAT32)).astype(x.dtype)


# Names as in transformers.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": gelu,
    "gelu": _in_float32(partial(jax.nn.gelu, approximate=False)),
    "quick_gelu": _in_float32(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "relu": jax.nn.relu,
    "relu2": _in_float32(lambda x: jnp.square(jax.nn.relu(x))),
    "silu": _in_float32(jax.nn.silu),
    "tanh": _in_float32(jnp.tanh),
}


def layer_norm(x_BTD: jax.Array, g: jax.Array, b: jax.Array, *, epsilon: float = EPSILON) -> jax.Array:
    """Layer normalization (Ba et al. 2016) with gain g and bias b, [D], and the biased variance."""
    x = x_BTD.astype(FLOAT32)
    mean = x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    return ((x - mean) * scale * g + b).astype(x_BTD.dtype)


def scores(hidden: jax.Array, head_VE: jax.Array | QuantizedMatrix, *, n_vocab: int) -> jax.Array:
    """Logits of the next token, float32 [..., V]; -inf for ids >= `n_vocab`."""
    if isinstance(head_VE, QuantizedMatrix):
        found = head_VE.product(hidden)
    else:
        found = jnp.einsum("...e,ve->...v", hidden, head_VE.astype(hidden.dtype), preferred_element_type=FLOAT32)
    ids = jnp.arange(found.shape[-1])
    return found if len(ids) == n_vocab else jnp.where(ids < n_vocab, found, -jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def nll(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int) -> jax.Array:
    """Negative log-likelihood of the targets in nats, float32 [B, T].

    head_VE: output matrix, float32; the product uses the dtype of `hidden_BTE`.
    """
    return _nll_forward(hidden_BTE, head_VE, targets_BT, n_vocab)[0]


def _nll_forward(hidden_BTE: jax.Array, head_VE: jax.Array, targets_BT: jax.Array, n_vocab: int):
    scores_BTV = constrain(scores(hidden_BTE, head_VE, n_vocab=n_vocab), "batch", None, "vocab")
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
