"""Matrices for generation on CPUs: packed once, in few bytes, and multiplied by native/ for any number of rows.

Letters of the shapes: N rows, D inputs, F outputs.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from models.gpt2.decode import kernels

Storage = Literal["float32", "bfloat16", "int8"]
STORED = {"float32": jnp.float32, "bfloat16": jnp.uint16, "int8": jnp.int8}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix as `kernels.pack` stores it.

    inputs, outputs: the dims that D and F stand for.
    """

    numbers: jax.Array
    scales: jax.Array
    inputs: tuple[int, ...] = field(metadata={"static": True})
    outputs: tuple[int, ...] = field(metadata={"static": True})

    def __getitem__(self, outputs: jax.Array) -> jax.Array:
        """The weights of some outputs, float32 [..., D]: of a table of embeddings, its rows."""
        return kernels.unpacked(self.numbers, self.scales, outputs, math.prod(self.inputs))

    def product(self, x: jax.Array, bias: jax.Array | None = None, *, is_gelu: bool = False) -> jax.Array:
        """x [..., *inputs] float32, or its GELU, times the matrix, plus bias [*outputs], float32 [..., *outputs]."""
        lead = x.shape[: x.ndim - len(self.inputs)]
        x_ND = x.reshape(-1, math.prod(self.inputs))
        bias_F = jnp.zeros(0) if bias is None else bias.reshape(-1)
        n_outputs = math.prod(self.outputs)
        y_NF = kernels.packed_product(x_ND, self.numbers, self.scales, bias_F, n_outputs, is_gelu=is_gelu)
        return y_NF.reshape(*lead, *self.outputs)


def quantize_matrix(array: jax.Array, *, rows: int, storage: Storage, is_table: bool = False) -> QuantizedMatrix:
    """Of an array whose first `rows` dims are the inputs. is_table: those are its last, and outputs are looked up."""
    first, second = array.shape[:rows], array.shape[rows:]
    matrix = array.reshape(math.prod(first), math.prod(second))
    inputs, outputs = (second, first) if is_table else (first, second)
    return QuantizedMatrix(*kernels.pack(matrix, STORED[storage], is_table=is_table), inputs, outputs)


def packed_gelu_dense(dims: str, x: jax.Array, weights: dict[str, Any]) -> jax.Array:
    """`layers.activated_dense` of the GELU with packed weights, whose kernel computes both in one pass over x."""
    return weights["w"].product(x, weights["b"], is_gelu=True)
