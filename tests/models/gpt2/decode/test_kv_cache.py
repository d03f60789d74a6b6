"""Copying what a slot holds to another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.gpt2.decode import kv_cache

SHAPE = (6, 2, 16, 4)


def arrays(dtype: str, seed: int) -> list[jax.Array]:
    draws = np.random.default_rng(seed).normal(size=(3, *SHAPE))
    return [jnp.asarray(values, dtype) for values in draws]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_copy_changes_the_beginning_of_one_slot(dtype):
    k, v = arrays(dtype, 0), arrays(dtype, 1)
    parts = jax.jit(kv_cache.of_slot, static_argnames="count")(k, v, 4, count=8)
    copied = jax.jit(kv_cache.with_slot)(k, v, parts, 1)
    for before, after in zip((k, v), copied, strict=True):
        for layer, result in zip(before, after, strict=True):
            expected = np.array(layer)
            expected[1, :, :8] = expected[4, :, :8]
            np.testing.assert_array_equal(np.asarray(result), expected, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_touches_no_other_slot(dtype):
    """The programs need less memory than one array, and convert none: so they take no longer with more slots."""
    k, v = arrays(dtype, 0), arrays(dtype, 1)
    read = jax.jit(kv_cache.of_slot, static_argnames="count").lower(k, v, 4, count=8).compile()
    write = jax.jit(kv_cache.with_slot, donate_argnums=(0, 1)).lower(k, v, read(k, v, 4), 1).compile()
    for program in (read, write):
        assert program.memory_analysis().temp_size_in_bytes < k[0].nbytes
        assert " convert(" not in program.as_text()
    assert write.memory_analysis().alias_size_in_bytes >= 6 * k[0].nbytes
