"""Dense layers of a layer norm or a GELU whose results are not kept: the C++ kernels of their gradients repeat them.

They are more than a third of what a block keeps for the backward pass, and cost no pass over memory of their own.
"""

from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

from models.gpt2 import cpu_kernels, ops
from models.gpt2.ops import DENSE

Weights = dict[str, jax.Array]
PRODUCTS = ops.Products(cpu_kernels.product, cpu_kernels.product_and_sums)
linear = partial(ops.linear, products=PRODUCTS)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normed_dense(dims: str, x_BTD: jax.Array, ln: Weights, weights: Weights) -> jax.Array:
    """Same as `ops.normed_dense` with `cpu_kernels.layer_norm`."""
    with jax.named_scope("normalization"):
        y_BTD = cpu_kernels.layer_norm(x_BTD, ln["g"], ln["b"])
    return linear(dims, y_BTD, weights)


def _normed_dense_forward(dims: str, *kept):
    return checkpoint_name(normed_dense(dims, *kept), DENSE), kept


def _normed_dense_backward(dims: str, kept: tuple[jax.Array, Weights, Weights], dy: jax.Array):
    x_BTD, ln, weights = kept
    d_BTD = PRODUCTS.input_gradient(dims, dy, weights["w"])
    with jax.named_scope("normalization"):
        dx, dg, db, y_BTD = cpu_kernels.layer_norm_backward((x_BTD, ln["g"], ln["b"]), d_BTD, again=True)
    dw, d_bias = PRODUCTS.weight_gradients(dims, y_BTD, dy, weights["b"])
    return dx, {"g": dg, "b": db}, {"w": dw, "b": d_bias}


normed_dense.defvjp(_normed_dense_forward, _normed_dense_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gelu_dense(dims: str, x_BTF: jax.Array, weights: Weights) -> jax.Array:
    """Same as `ops.activated_dense` with `cpu_kernels.gelu`."""
    return linear(dims, cpu_kernels.gelu(x_BTF), weights)


def _gelu_dense_forward(dims: str, *kept):
    return checkpoint_name(gelu_dense(dims, *kept), DENSE), kept


def _gelu_dense_backward(dims: str, kept: tuple[jax.Array, Weights], dy: jax.Array):
    x_BTF, weights = kept
    d_BTF = PRODUCTS.input_gradient(dims, dy, weights["w"])
    dx, y_BTF = cpu_kernels.gelu_backward(x_BTF, d_BTF, again=True)
    dw, d_bias = PRODUCTS.weight_gradients(dims, y_BTF, dy, weights["b"])
    return dx, {"w": dw, "b": d_bias}


gelu_dense.defvjp(_gelu_dense_forward, _gelu_dense_backward)
