"""Device mesh with named axes, and shardings over it.

Models name the dims of their parameters and of some activations; LOGICAL_AXIS_RULES maps the names to mesh axes, so a
change of parallelism changes only the mesh:

data    each device has all parameters and its own examples; gradients are summed.
fsdp    shards examples, parameters, gradients and optimizer state, and gathers parameters where they are used (ZeRO-3,
        Rajbhandari et al. 2020).
tensor  shards heads, feed-forward columns and vocabulary over the same examples (Megatron-LM, Shoeybi et al. 2019).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axis = Literal["data", "fsdp", "tensor"]
AXES: tuple[Axis, ...] = ("data", "fsdp", "tensor")  # from the slowest links to the fastest
BATCH = ("data", "fsdp")
LOGICAL_AXIS_RULES: dict[str | None, Any] = {
    "batch": BATCH,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_dim(mesh: Mesh, dim: int) -> NamedSharding:
    """Sharding of dim `dim` over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * dim, BATCH))


def batch_shards(mesh: Mesh) -> int:
    """Number of batch shards; devices along the other axes hold the same shard."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count) of the batch part that this process provides."""
    grid = mesh.devices.reshape(batch_shards(mesh), -1)
    mine = sorted({row for row, devices in enumerate(grid) for d in devices if d.process_index == jax.process_index()})
    assert mine == list(range(mine[0], mine[0] + len(mine))), mine
    assert mine[0] % len(mine) == 0, mine
    return mine[0] // len(mine), len(grid) // len(mine)


# Inside jitted functions.


def with_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that its calls of `constrain` use this mesh."""
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return wrapped


def constrain(x: jax.Array, *dims: str | None) -> jax.Array:
    """Constrains an activation's sharding by logical axis name (None = replicated); a no-op without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*map(LOGICAL_AXIS_RULES.get, dims)))
