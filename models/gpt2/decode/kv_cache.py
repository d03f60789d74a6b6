"""Keys and values of the tokens seen so far, and attention to them.

Letters of the shapes: B rows, T new tokens, H heads, K head width; R slots, one for each sequence that is held, of S
positions, which fill from the left.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from estimator.parallel.mesh import constrain
from models.gpt2 import cpu_kernels
from models.gpt2.decode import kernels


class Cache(NamedTuple):
    """Keys and values of each layer, and where each row of a batch continues."""

    k: list[jax.Array]  # [R, H, S, K]: those of a head are contiguous
    v: list[jax.Array]
    length: jax.Array  # int32 [B], tokens that come before the row's own
    slots: jax.Array | None = None  # int32 [B]; -1 is padding, on CPUs only; None: row b has slot b


def cache_dtype(precision: str, predict_precision: str) -> Any:
    """Type of queries, keys and values while a model with these keys generates; bfloat16 for matrices in int8."""
    wanted = precision if predict_precision == "auto" else predict_precision
    return jnp.bfloat16 if wanted == "int8" else getattr(jnp, wanted)


def extended(cache: Cache | int, kept: list[tuple[jax.Array, jax.Array]], n_tokens: int) -> Cache:
    """The cache with what the layers kept: its arrays, or, for a new one of so many positions, [B, T, H, K] each."""
    if isinstance(cache, Cache):
        keys, values = zip(*kept, strict=True)
        return cache._replace(k=list(keys), v=list(values), length=cache.length + n_tokens)
    rows = len(kept[0][0])
    keys, values = ([_begun(part, cache) for part in parts] for parts in zip(*kept, strict=True))
    return Cache(keys, values, jnp.full(rows, n_tokens, jnp.int32))


def _begun(new_BTHK: jax.Array, positions: int) -> jax.Array:
    new_BHTK = new_BTHK.transpose(0, 2, 1, 3)
    return jnp.pad(new_BHTK, ((0, 0), (0, 0), (0, positions - new_BHTK.shape[2]), (0, 0)))


def cached_attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    k_RHSK: jax.Array,
    v_RHSK: jax.Array,
    *,
    slots_B: jax.Array | None,
    positions_BT: jax.Array,
    is_prompt: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention [B, T, H, K] to a row's slot up to each token's own position, and the arrays with the new tokens.

    is_prompt: T is 1, and rows of one slot in turn are the tokens of a prompt, which a CPU computes together.
    """
    rows, n_tokens = positions_BT.shape
    if n_tokens == 1 and k_RHSK.dtype in (jnp.float32, jnp.bfloat16) and not cpu_kernels.obstacle():
        slots_B = jnp.arange(rows, dtype=jnp.int32) if slots_B is None else slots_B
        out_BHK, k_RHSK, v_RHSK = kernels.cached_attention(
            q_BTHK[:, 0],
            k_BTHK[:, 0],
            v_BTHK[:, 0],
            k_RHSK,
            v_RHSK,
            slots_N=slots_B,
            positions_N=positions_BT[:, 0],
            is_prompt=is_prompt,
        )
        return out_BHK[:, None], k_RHSK, v_RHSK
    k_BHSK, v_BHSK = (
        _put(_of_rows(all_, slots_B), new, positions_BT) for all_, new in ((k_RHSK, k_BTHK), (v_RHSK, v_BTHK))
    )
    out_BTHK = reference(q_BTHK, k_BHSK, v_BHSK, positions_BT=positions_BT)
    return out_BTHK, _with_rows(k_RHSK, k_BHSK, slots_B), _with_rows(v_RHSK, v_BHSK, slots_B)


def reference(q_BTHK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, *, positions_BT: jax.Array) -> jax.Array:
    """Attention [B, T, H, K] of queries at `positions_BT` to the positions up to their own; float32 softmax."""
    scores_BHTS = jnp.einsum(
        "bthk,bhsk->bhts", q_BTHK * (1 / math.sqrt(q_BTHK.shape[-1])), k_BHSK, preferred_element_type=jnp.float32
    )
    seen_BTS = jnp.arange(k_BHSK.shape[2]) <= positions_BT[..., None]
    weights_BHTS = jax.nn.softmax(jnp.where(seen_BTS[:, None], scores_BHTS, -jnp.inf), axis=-1).astype(v_BHSK.dtype)
    return jnp.einsum("bhts,bhsk->bthk", weights_BHTS, v_BHSK)


def _of_rows(x_RHSK: jax.Array, slots_B: jax.Array | None) -> jax.Array:
    if slots_B is None:
        return x_RHSK
    if len(slots_B) == 1:
        return jax.lax.dynamic_slice_in_dim(x_RHSK, slots_B[0], 1)
    return x_RHSK[slots_B]


def _with_rows(x_RHSK: jax.Array, rows_BHSK: jax.Array, slots_B: jax.Array | None) -> jax.Array:
    if slots_B is None:
        return constrain(rows_BHSK, None, "heads", None, None)
    if len(slots_B) == 1:
        return constrain(
            jax.lax.dynamic_update_slice_in_dim(x_RHSK, rows_BHSK, slots_B[0], 0), None, "heads", None, None
        )
    return constrain(x_RHSK.at[slots_B].set(rows_BHSK), None, "heads", None, None)


def _put(x_BHSK: jax.Array, new_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """x with new keys or values at each row's own positions, which follow each other."""
    new_BHTK = new_BTHK.transpose(0, 2, 1, 3).astype(x_BHSK.dtype)
    if len(x_BHSK) == 1:  # written in place, where the rows' own positions make a loop of it
        return jax.lax.dynamic_update_slice_in_dim(x_BHSK, new_BHTK, positions_BT[0, 0], axis=2)
    return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=1))(x_BHSK, new_BHTK, positions_BT[:, 0])


def of_slot(k: list[jax.Array], v: list[jax.Array], slot: jax.Array, *, count: int) -> list[jax.Array]:
    """The bits of the first `count` positions of a slot, [1, H, count, K] of each layer's keys, then of its values.

    Reading and writing must be two programs: in one, XLA copies the arrays of all slots before it writes to them.
    """
    return [jax.lax.dynamic_slice(x, (slot, 0, 0, 0), (1, x.shape[1], count, x.shape[3])) for x in map(_bits, [*k, *v])]


def with_slot(
    k: list[jax.Array], v: list[jax.Array], parts: list[jax.Array], slot: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Keys and values with what `of_slot` read, at the beginning of another slot.

    Bits, because XLA writes bfloat16 on a CPU by converting all slots to float32 and back.
    """
    whole = [
        jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(_bits(x), part, (slot, 0, 0, 0)), x.dtype)
        for x, part in zip([*k, *v], parts, strict=True)
    ]
    return whole[: len(k)], whole[len(k) :]


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
