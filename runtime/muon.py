"""Muon for declared parameters: momentum made orthogonal, matrix by matrix."""

import math
import string
from typing import Any

import jax
import jax.numpy as jnp
import optax

from runtime.params import ParamSpec, map_specs

Dims = tuple[int, ...]

RMS = 0.2  # of an update at learning rate 1: about Adam's
DTYPE = jnp.float32  # of the Newton-Schulz products
SEPARATE_AXIS = "qkv"  # query, key and value are three matrices side by side
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic that grows small singular values fastest (Jordan 2024)


def is_hidden_matrix(spec: ParamSpec) -> bool:
    """Muon is for the matrices between hidden states; embeddings, gains and biases fare better with Adam."""
    return bool(spec.row_dims and spec.stack_dims)


def scale_by_muon(specs: Any, *, momentum: float, ns_steps: int) -> optax.GradientTransformation:
    """Muon's direction (Jordan 2024, kellerjordan.github.io/posts/muon): Nesterov momentum, made orthogonal.

    Scaled by 0.2 sqrt(max(rows, columns)), so that its entries are as large as Adam's and share Adam's learning rate
    and weight decay ("Muon is Scalable for LLM Training", Liu et al. 2025, arXiv 2502.16982).
    """

    def direction(updates: Any, params: Any) -> Any:
        def orthogonal(spec: ParamSpec, update: Any) -> Any:
            if not is_hidden_matrix(spec):
                return update
            columns = tuple(dim for dim in spec.column_dims if spec.axes[dim] != SEPARATE_AXIS)
            sides = [math.prod(spec.shape[dim] for dim in dims) for dims in (spec.row_dims, columns)]
            matrix = orthogonalize(update, rows=spec.row_dims, columns=columns, steps=ns_steps)
            return RMS * math.sqrt(max(sides)) * matrix

        return map_specs(orthogonal, specs, updates)

    return optax.chain(optax.trace(momentum, nesterov=True), optax.stateless(direction))


def orthogonalize(x: jax.Array, *, rows: Dims, columns: Dims, steps: int) -> jax.Array:
    """The matrices of x with all singular values brought near 1 (0.7 to 1.2) by Newton-Schulz iterations.

    A matrix has the dims `rows` and `columns`; the other dims count the matrices. Nothing is reshaped, so that the
    dims keep their sharding. X <- a X + (b A + c A A) X with A = X X^T on the shorter side.
    """
    a, b, c = NEWTON_SCHULZ
    sides = (rows, columns)
    short = min(sides, key=lambda dims: math.prod(x.shape[dim] for dim in dims))
    here = string.ascii_lowercase[: x.ndim]

    def other(letters: str) -> str:
        """The dims of x with a second and third name for those of the shorter side."""
        return "".join(letters[dim] if dim in short else name for dim, name in enumerate(here))

    there, beyond = other(string.ascii_uppercase), other(string.ascii_uppercase[x.ndim :])
    batch = "".join(name for dim, name in enumerate(here) if dim not in rows + columns)
    i, j, k = ("".join(names[dim] for dim in short) for names in (here, there, beyond))
    norm = jnp.sqrt(jnp.sum(x * x, axis=rows + columns, keepdims=True))
    x = (x / (norm + 1e-8)).astype(DTYPE)
    for _ in range(steps):
        gram = jnp.einsum(f"{here},{there}->{batch}{i}{j}", x, x)
        square = jnp.einsum(f"{batch}{i}{j},{batch}{j}{k}->{batch}{i}{k}", gram, gram)
        x = a * x + jnp.einsum(f"{batch}{i}{j},{there}->{here}", b * gram + c * square, x)
    return x.astype(jnp.float32)
