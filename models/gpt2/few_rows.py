"""Matrices for generation on CPUs: stored row by row in few bytes, multiplied as fast as memory gives them.

Few rows at a time (the tokens of a batch) are multiplied by native/, in float32 whatever the matrix is stored in; many
(prompts) by XLA, in the type that is fast on this processor.

Letters of the shapes: N rows, D inputs, F outputs.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from models.gpt2 import kernels
from runtime.hardware import fast_bfloat16

Storage = Literal["float32", "bfloat16", "int8"]
BLOCK = 64  # columns that share a scale; the width is a multiple of it
MOST_ROWS = 16  # above, XLA is faster
FLOAT32 = jnp.float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowMatrix:
    """A matrix whose outputs are the rows of `numbers`, [F, D] with columns of zeros up to a multiple of BLOCK.

    numbers: float32, bfloat16, the bits of bfloat16 as uint16, or int8.
    scales: of int8, float32 [F, D / BLOCK]; empty of others. inputs, outputs: the dims that D and F stand for.
    """

    numbers: jax.Array
    scales: jax.Array
    inputs: tuple[int, ...] = field(metadata={"static": True})
    outputs: tuple[int, ...] = field(metadata={"static": True})

    def __getitem__(self, outputs: jax.Array) -> jax.Array:
        """The weights of some outputs, float32 [..., D]: of a table of embeddings, its rows."""
        scales = self.scales[outputs] if self.scales.size else self.scales
        return _floats(self.numbers[outputs], scales)[..., : math.prod(self.inputs)]

    def product(self, x: jax.Array) -> jax.Array:
        """x [..., *inputs] float32 times the matrix, float32 [..., *outputs]."""
        lead = x.shape[: x.ndim - len(self.inputs)]
        x_ND = x.reshape(-1, math.prod(self.inputs))
        x_ND = jnp.pad(x_ND, [(0, 0), (0, self.numbers.shape[1] - x_ND.shape[1])])
        if len(x_ND) <= MOST_ROWS:
            y_NF = kernels.few_rows(x_ND, self.numbers, self.scales)
        else:
            y_NF = _many(x_ND, self)
        return y_NF.reshape(*lead, *self.outputs)


def row_matrix(array: jax.Array, *, rows: int, storage: Storage, is_table: bool = False) -> RowMatrix:
    """Of an array whose first `rows` dims are the inputs. is_table: outputs are looked up, too."""
    inputs, outputs = array.shape[:rows], array.shape[rows:]
    numbers = array.reshape(math.prod(inputs), math.prod(outputs)).T
    numbers = jnp.pad(numbers, [(0, 0), (0, -numbers.shape[1] % BLOCK)])
    scales = jnp.zeros((0, 0), FLOAT32)
    if storage == "int8":  # symmetric, by the largest of each block (Dettmers et al. 2022, section 2)
        blocks = numbers.reshape(len(numbers), -1, BLOCK)
        scales = jnp.abs(blocks).max(-1) / 127
        numbers = jnp.round(blocks / jnp.where(scales == 0, 1, scales)[..., None]).reshape(numbers.shape)
    numbers = numbers.astype(storage)
    if storage == "bfloat16" and is_table:  # to look up some rows, XLA would convert all to float32
        numbers = jax.lax.bitcast_convert_type(numbers, jnp.uint16)
    return RowMatrix(numbers, scales, inputs, outputs)


def _floats(numbers: jax.Array, scales: jax.Array) -> jax.Array:
    """The weights that are stored so, float32."""
    if numbers.dtype == jnp.uint16:
        numbers = jax.lax.bitcast_convert_type(numbers, jnp.bfloat16)
    if not scales.size:
        return numbers.astype(FLOAT32)
    blocks = numbers.reshape(*scales.shape, BLOCK).astype(FLOAT32)
    return (blocks * scales[..., None]).reshape(numbers.shape)


def _many(x_ND: jax.Array, matrix: RowMatrix) -> jax.Array:
    numbers_FD = _floats(matrix.numbers, matrix.scales)
    if matrix.numbers.dtype != FLOAT32 and fast_bfloat16():
        x_ND, numbers_FD = x_ND.astype(jnp.bfloat16), numbers_FD.astype(jnp.bfloat16)
    return jnp.einsum("nd,fd->nf", x_ND, numbers_FD, preferred_element_type=FLOAT32)
