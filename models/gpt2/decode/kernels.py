"""CPU kernels of generation, of the same library as `models.gpt2.cpu_kernels`.

Letters of the shapes: N tokens, H heads, K head width, D inputs, F outputs; R slots of S positions.
"""

import jax
import jax.numpy as jnp

from models.gpt2.cpu_kernels import FLOAT32, call, in_tiles, like

PANEL, BLOCK = 16, 64  # a packed matrix has multiples of these many outputs and inputs


def pack(matrix: jax.Array, dtype: jnp.dtype, *, is_table: bool) -> tuple[jax.Array, jax.Array]:
    """A float32 matrix [D, F], or [F, D] if is_table, in the order in which this processor multiplies it.

    dtype: float32, uint16 (the bits of bfloat16) or int8. Returns [F, D] rounded up to PANEL and BLOCK, and the scales
    of int8 [F, D / BLOCK], else [0].
    """
    inputs, outputs = matrix.shape[::-1] if is_table else matrix.shape
    shape = -(-outputs // PANEL) * PANEL, -(-inputs // BLOCK) * BLOCK
    scales = (shape[0], shape[1] // BLOCK) if dtype == jnp.int8 else (0,)
    results = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(scales, FLOAT32)
    return call("pack", results, matrix, is_table=is_table)


def unpacked(matrix: jax.Array, scales: jax.Array, outputs: jax.Array, n_inputs: int) -> jax.Array:
    """The weights of some outputs of a packed matrix, float32 [..., D]."""
    result = jax.ShapeDtypeStruct((outputs.size, n_inputs), FLOAT32)
    found = call("unpacked", result, matrix, scales, outputs.reshape(-1).astype(jnp.int32))
    return found.reshape(*outputs.shape, n_inputs)


def packed_product(
    x_ND: jax.Array, matrix: jax.Array, scales: jax.Array, bias: jax.Array, n_outputs: int, *, is_gelu: bool = False
) -> jax.Array:
    """x, or its GELU, times a packed matrix, plus bias [F] or [0], float32 [N, F].

    A row has the same bits in any batch. Multiplied is in float32; bfloat16 and int8 round x as well where the
    processor has products of such pairs.
    """
    result = jax.ShapeDtypeStruct((len(x_ND), n_outputs), FLOAT32)
    return call("packed_product", result, x_ND, matrix, scales, bias, is_gelu=is_gelu)


def cached_attention(
    q_NHK: jax.Array,
    k_NHK: jax.Array,
    v_NHK: jax.Array,
    k_RHSK: jax.Array,
    v_RHSK: jax.Array,
    *,
    slots_N: jax.Array,
    positions_N: jax.Array,
    is_prompt: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention [N, H, K] of tokens to their own slots of the caches, and the caches with their keys and values.

    slots_N: -1 is padding. is_prompt: tokens of one slot in turn are computed together, with the bits of `attention`.
    All float32, or all bfloat16 and computed in float32; the caches are changed in place.
    """
    results = (like(q_NHK), like(k_RHSK), like(v_RHSK))
    arguments = (q_NHK, k_NHK, v_NHK, k_RHSK, v_RHSK, slots_N, positions_N)
    assert len({array.dtype for array in arguments[:5]}) == 1, "the kernel reads all arrays as one type"
    options = {"is_prompt": is_prompt, "in_tiles": in_tiles(q_NHK)}
    return call("cached_attention", results, *arguments, aliases={3: 1, 4: 2}, **options)
