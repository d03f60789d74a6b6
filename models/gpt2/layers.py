"""Dense layers with hand-written gradients, and dropout.

Gradients save only the inputs in their own dtype. Those of the layers named native do not save the result of the layer
norm or GELU before them either: the C++ kernels of its gradient repeat it. Such results are more than a third of what a
block keeps for the backward pass, and cost no pass over memory of their own.

Letters of the shapes are those of models.gpt2.model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from models.gpt2 import cpu_kernels, ops
from models.gpt2.decode.quantized import QuantizedMatrix

Weights = dict[str, Any]  # "w", which may be packed for generation, and "b"; or "g" and "b" of a layer norm
DENSE = "dense"  # name of `dense` results for checkpoint policies


class Products(NamedTuple):
    """How `dense` and its gradients multiply: `product` and `product_and_sums`, or functions with their arguments."""

    product: Callable[..., jax.Array]
    product_and_sums: Callable[..., tuple[jax.Array, jax.Array]]

    def input_gradient(self, dims: str, dy: jax.Array, w: jax.Array) -> jax.Array:
        """Gradient of `dense` with respect to x."""
        x_dims, w_dims, y_dims = _dims(dims)
        return self.product(f"{y_dims},{w_dims}->{x_dims}", dy, w)

    def weight_gradients(self, dims: str, x: jax.Array, dy: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gradients of `dense` with respect to w and b."""
        x_dims, w_dims, y_dims = _dims(dims)
        return self.product_and_sums(f"{x_dims},{y_dims}->{w_dims}", x, dy, n_dims=b.ndim)


XLA = Products(ops.product, ops.product_and_sums)
NATIVE = Products(cpu_kernels.product, cpu_kernels.product_and_sums)


def _dims(dims: str) -> list[str]:
    inputs, y_dims = dims.split("->")
    return [*inputs.split(","), y_dims]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def dense(products: Products, dims: str, x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    """einsum(dims, x, w) + b in the dtype of x; b is float32 and has the last dims of the result."""
    return products.product(dims, x, w, b)


def _dense_forward(products: Products, dims: str, x: jax.Array, w: jax.Array, b: jax.Array):
    # jax.checkpoint policies do not see products inside platform_dependent, but they see names.
    return checkpoint_name(dense(products, dims, x, w, b), DENSE), (x, w, b)


def _dense_backward(products: Products, dims: str, kept: tuple[jax.Array, ...], dy: jax.Array):
    x, w, b = kept
    return products.input_gradient(dims, dy, w), *products.weight_gradients(dims, x, dy, b)


dense.defvjp(_dense_forward, _dense_backward)


def linear(dims: str, x: jax.Array, weights: Weights, *, products: Products = XLA) -> jax.Array:
    """`dense` with weights, packed or not."""
    w, b = weights["w"], weights["b"]
    return w.product(x, b) if isinstance(w, QuantizedMatrix) else dense(products, dims, x, w, b)


native_linear = partial(linear, products=NATIVE)


def normed_dense(norm: Callable[..., jax.Array], dims: str, x: jax.Array, ln: Weights, weights: Weights) -> jax.Array:
    """`linear` of the norm of x."""
    return linear(dims, norm(x, **ln), weights)


def activated_dense(activate: Callable[..., jax.Array], dims: str, x: jax.Array, weights: Weights) -> jax.Array:
    """`linear` of the activation of x."""
    return linear(dims, activate(x), weights)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def native_normed_dense(dims: str, x_BTD: jax.Array, ln: Weights, weights: Weights) -> jax.Array:
    """Same as `normed_dense` with `cpu_kernels.layer_norm`."""
    with jax.named_scope("normalization"):
        y_BTD = cpu_kernels.layer_norm(x_BTD, ln["g"], ln["b"])
    return native_linear(dims, y_BTD, weights)


def _native_normed_dense_forward(dims: str, *kept):
    return checkpoint_name(native_normed_dense(dims, *kept), DENSE), kept


def _native_normed_dense_backward(dims: str, kept: tuple[jax.Array, Weights, Weights], dy: jax.Array):
    x_BTD, ln, weights = kept
    d_BTD = NATIVE.input_gradient(dims, dy, weights["w"])
    with jax.named_scope("normalization"):
        dx, dg, db, y_BTD = cpu_kernels.layer_norm_backward((x_BTD, ln["g"], ln["b"]), d_BTD, again=True)
    dw, d_bias = NATIVE.weight_gradients(dims, y_BTD, dy, weights["b"])
    return dx, {"g": dg, "b": db}, {"w": dw, "b": d_bias}


native_normed_dense.defvjp(_native_normed_dense_forward, _native_normed_dense_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def native_gelu_dense(dims: str, x_BTF: jax.Array, weights: Weights) -> jax.Array:
    """Same as `activated_dense` with `cpu_kernels.gelu`."""
    return native_linear(dims, cpu_kernels.gelu(x_BTF), weights)


def _native_gelu_dense_forward(dims: str, *kept):
    return checkpoint_name(native_gelu_dense(dims, *kept), DENSE), kept


def _native_gelu_dense_backward(dims: str, kept: tuple[jax.Array, Weights], dy: jax.Array):
    x_BTF, weights = kept
    d_BTF = NATIVE.input_gradient(dims, dy, weights["w"])
    dx, y_BTF = cpu_kernels.gelu_backward(x_BTF, d_BTF, again=True)
    dw, d_bias = NATIVE.weight_gradients(dims, y_BTF, dy, weights["b"])
    return dx, {"w": dw, "b": d_bias}


native_gelu_dense.defvjp(_native_gelu_dense_forward, _native_gelu_dense_backward)


# Dropout. Threefry, JAX's default generator, takes about a hundred instructions per number. A mask only has to look
# independent across elements and keys, so each element hashes its row and column with two integers drawn from the key.
# The mask is computed where it is used and does not depend on the sharding.


def dropped(x: jax.Array, rate: float, key: jax.Array | None, *, rows: tuple[int, int] | None = None) -> jax.Array:
    """Dropout (Srivastava et al. 2014): x / (1 - rate) or 0; returns x if key is None or rate is 0.

    rows: (first, count) if x holds the rows (second-to-last dim) from `first` on of an array with `count` rows.
    """
    if key is None or not rate:
        return x
    return jnp.where(keep_mask(key, rate, x.shape, rows=rows), x / (1 - rate), 0)


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...], *, rows: tuple[int, int] | None = None) -> jax.Array:
    """Returns bool [shape], True with probability 1 - rate (rounded to multiples of 2^-32)."""
    row_seed, column_seed = jax.random.bits(key, (2,), jnp.uint32)
    first, count = rows or (0, shape[-2] if len(shape) > 1 else 1)
    row = jnp.zeros(shape[:-1], jnp.uint32)
    for dim, size in enumerate((*shape[:-2], count)[: len(shape) - 1]):
        row = row * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape[:-1], dim)
    row += np.uint32(first)
    row = _mixed(_mixed(row ^ row_seed) ^ column_seed)
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1) * np.uint32(0x9E3779B9)
    return _mixed(row[..., None] ^ column) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mixed(x: jax.Array) -> jax.Array:
    """Bijective 32-bit hash (lowbias32, Wellons 2018)."""
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16
