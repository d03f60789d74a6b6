"""Products of bfloat16 arrays on CPUs by the C++ kernel that computes them in tiles, with AMX or AVX-512."""

import math

import jax
import jax.numpy as jnp


def tile_product(
    dims: str,
    a: jax.Array,
    b: jax.Array,
    bias: jax.Array | None = None,
    *,
    dtype: jnp.dtype = jnp.bfloat16,
    has_sums: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """einsum of bfloat16 arrays in tiles, plus bias, and the sums of b over the shared dims.

    The shared dims follow each other, at the beginning or end of a and of b, which has them at the beginning if
    has_sums. The result has the others of a, then those of b.
    """
    a_dims, b_dims = dims.partition("->")[0].split(",")
    shared = "".join(dim for dim in a_dims if dim in b_dims)
    outer = a_dims.replace(shared, ""), b_dims.replace(shared, "")
    by_input, by_output = a_dims.startswith(shared), b_dims.endswith(shared)
    assert dims == f"{a_dims},{b_dims}->{''.join(outer)}", dims
    sizes = dict(zip(a_dims + b_dims, a.shape + b.shape, strict=True))
    rows, inputs, columns = (math.prod(sizes[dim] for dim in part) for part in (outer[0], shared, outer[1]))
    results = (
        jax.ShapeDtypeStruct((rows, columns), dtype),
        jax.ShapeDtypeStruct((columns if has_sums else 0,), jnp.float32),
    )
    y, sums = jax.ffi.ffi_call("gpt2_tile_product", results)(
        a.reshape((inputs, rows) if by_input else (rows, inputs)),
        b.reshape((columns, inputs) if by_output else (inputs, columns)),
        jnp.zeros(0, jnp.float32) if bias is None else bias.reshape(-1),
        by_input=by_input,
        by_output=by_output,
    )
    return y.reshape(*(sizes[dim] for dim in "".join(outer))), sums
