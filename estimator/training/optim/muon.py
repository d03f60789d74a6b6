"""Muon for declared parameters: orthogonalized momentum for each matrix."""

import math
import string
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimator.parallel.param_spec import ParamSpec, map_specs

Dims = tuple[int, ...]

RMS = 0.2  # RMS of an update at learning rate 1, about Adam's
DTYPE = jnp.float32  # of the Newton-Schulz products
EPSILON = 1e-10  # keeps updates of 0 at 0
SEPARATE_AXIS = "qkv"  # query, key and value are three matrices side by side
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic that raises small singular values fastest (Jordan 2024)


def is_hidden_matrix(spec: ParamSpec) -> bool:
    """Whether Muon applies: matrices between hidden states. Embeddings, gains and biases use Adam."""
    return bool(spec.row_dims and spec.stack_dims)


def scale_by_muon(
    specs: Any, *, momentum: float, ns_steps: int, neuron_beta2: float | None = None
) -> optax.GradientTransformation:
    """Muon's direction (Jordan 2024, kellerjordan.github.io/posts/muon): orthogonalized Nesterov momentum.

    Scaled by 0.2 sqrt(max(rows, columns)), which matches the RMS of Adam's updates, so both share the learning rate
    and weight decay ("Muon is Scalable for LLM Training", Liu et al. 2025, arXiv 2502.16982). neuron_beta2: see
    `scale_by_neuron`; None leaves it out.
    """

    def direction(updates: Any, params: Any) -> Any:
        def orthogonal(spec: ParamSpec, update: Any) -> Any:
            if not is_hidden_matrix(spec):
                return update
            columns = _columns(spec)
            sides = [math.prod(spec.shape[dim] for dim in dims) for dims in (spec.row_dims, columns)]
            matrix = orthogonalize(update, rows=spec.row_dims, columns=columns, steps=ns_steps)
            return RMS * math.sqrt(max(sides)) * matrix

        return map_specs(orthogonal, specs, updates)

    chain = [optax.trace(momentum, nesterov=True), optax.stateless(direction)]
    return optax.chain(*chain, *([] if neuron_beta2 is None else [scale_by_neuron(specs, beta2=neuron_beta2)]))


def scale_by_neuron(specs: Any, *, beta2: float) -> optax.GradientTransformation:
    """Evens out the updates of a matrix's output neurons (NorMuon, Li et al. 2025, arXiv 2510.05491).

    Divides each column, the weights into one neuron, by the root of the running mean of its squared entries (the state:
    one float a neuron), then restores the matrix's Frobenius norm, which makes a bias correction needless.
    """

    def init(params: Any) -> Any:
        def zeros(spec: ParamSpec, param: jax.Array) -> jax.Array:
            if not is_hidden_matrix(spec):
                return param
            return jnp.zeros([1 if dim in spec.row_dims else size for dim, size in enumerate(spec.shape)], jnp.float32)

        return map_specs(zeros, specs, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def average(spec: ParamSpec, old: jax.Array, matrix: jax.Array) -> jax.Array:
            if not is_hidden_matrix(spec):
                return old
            return beta2 * old + (1 - beta2) * jnp.mean(matrix * matrix, spec.row_dims, keepdims=True)

        def even(spec: ParamSpec, matrix: jax.Array, variance: jax.Array) -> jax.Array:
            if not is_hidden_matrix(spec):
                return matrix
            evened = matrix / (jnp.sqrt(variance) + EPSILON)
            dims = spec.row_dims + _columns(spec)
            squares, wanted = (jnp.sum(x * x, dims, keepdims=True) for x in (evened, matrix))
            return evened * jnp.sqrt(wanted / (squares + EPSILON))

        variances = map_specs(average, specs, state, updates)
        return map_specs(even, specs, updates, variances), variances

    return optax.GradientTransformation(init, update)


def _columns(spec: ParamSpec) -> Dims:
    """Column dims of one matrix."""
    return tuple(dim for dim in spec.column_dims if spec.axes[dim] != SEPARATE_AXIS)


def orthogonalize(x: jax.Array, *, rows: Dims, columns: Dims, steps: int) -> jax.Array:
    """Brings all singular values of each matrix near 1 (0.7 to 1.2) by Newton-Schulz iterations.

    `rows` and `columns` are the dims of a matrix; the other dims are batch dims. Nothing is reshaped, so the dims keep
    their sharding. X <- a X + (b A + c A A) X with A = X X^T on the shorter side.
    """
    a, b, c = NEWTON_SCHULZ
    sides = (rows, columns)
    short = min(sides, key=lambda dims: math.prod(x.shape[dim] for dim in dims))
    here = string.ascii_lowercase[: x.ndim]

    def other(letters: str) -> str:
        """Einsum labels of x with other letters for the shorter side."""
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
