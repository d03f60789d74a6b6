"""Attention on TPUs with JAX's Pallas flash kernel (Dao et al. 2022).

Letters of the shapes: B batch, T tokens, H heads, K head width.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from estimator.parallel.mesh import LOGICAL_AXIS_RULES

BLOCKS = (512, 256, 128)  # queries and keys per block


def attention(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """Causal attention, within segments if given. Arguments and result as in `models.gpt2.attention`.

    Each device computes its own examples and heads, because the compiler cannot partition the kernel.
    """
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, SegmentIds, flash_attention

    n_ctx = q_BTHK.shape[1]
    block = next(size for size in BLOCKS if n_ctx % size == 0)
    sides = {field.name: block for field in dataclasses.fields(BlockSizes)} | {"block_b": 1}

    def kernel(q_BTHK, k_BSHK, v_BSHK, segments_BT):  # of a device's part
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTHK, k_BSHK, v_BSHK))
        segments = None if segments_BT is None else SegmentIds(segments_BT, segments_BT)
        scale = 1 / math.sqrt(q.shape[-1])
        blocks = BlockSizes(**sides)
        a = flash_attention(q, k, v, segment_ids=segments, causal=True, sm_scale=scale, block_sizes=blocks)
        return a.transpose(0, 2, 1, 3)

    heads = ("batch", None, "heads", None)
    return _each_device(kernel, heads, heads, heads, ("batch", None), out=heads)(q_BTHK, k_BSHK, v_BSHK, segments_BT)


def _each_device(function: Callable[..., jax.Array], *arguments: tuple[str | None, ...], out: tuple[str | None, ...]):
    """shard_map over logical axis names, as in `mesh.constrain`.

    Arguments that are None stay None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    places = [PartitionSpec(*map(LOGICAL_AXIS_RULES.get, dims)) for dims in (*arguments, out)]

    def divided(*values: Any) -> jax.Array:
        here = tuple(None if value is None else place for value, place in zip(values, places, strict=False))
        return jax.shard_map(function, in_specs=here, out_specs=places[-1], check_vma=False)(*values)

    return divided
