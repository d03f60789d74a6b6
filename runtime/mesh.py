"""Devices as a mesh with named axes, and where arrays lie on it.

Models name the dims of their parameters and of some activations; the one table here says which mesh axes a named dim
is split over. Changing the parallelism changes the mesh and nothing else:

data    each device has all parameters and its own examples; the gradients are added up.
fsdp    examples are split too, and so are parameters, gradients and optimizer state, which are gathered where they are
        used (ZeRO-3, Rajbhandari et al. 2020).
tensor  heads, feed-forward columns and vocabulary are split, on the same examples (Megatron-LM, Shoeybi et al. 2019).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from runtime.errors import UserError
from runtime.params import ParamSpec, map_specs, named, path_name

Axis = Literal["data", "fsdp", "tensor"]
AXES: tuple[Axis, ...] = ("data", "fsdp", "tensor")  # from the slowest links to the fastest
BATCH = ("data", "fsdp")
TABLE: dict[str | None, Any] = {
    "batch": BATCH,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def split_dims(spec: ParamSpec, axis: Axis) -> list[int]:
    """The dims of a parameter that lie along a mesh axis."""
    return [dim for dim, name in enumerate(spec.axes) if TABLE.get(name) == axis]


def parameter_shardings(specs: Any, mesh: Mesh) -> Any:
    """Where each declared parameter lies. UserError when a dim cannot be split evenly."""
    for axis in AXES:
        size = mesh.shape[axis]
        for name, spec in named(specs):
            for dim in split_dims(spec, axis):
                if spec.shape[dim] % size:
                    count = spec.shape[dim]
                    fitting = [str(n) for n in range(1, min(count, mesh.size) + 1) if count % n == 0]
                    raise UserError(
                        f"mesh: {axis} {size} does not divide the {count} {spec.axes[dim]} of {name}; "
                        f"set {axis} to one of {', '.join(fitting)}"
                    )
    return map_specs(lambda spec: NamedSharding(mesh, PartitionSpec(*map(TABLE.get, spec.axes))), specs)


def slot_shardings(specs: Any, mesh: Mesh, slots: Any) -> Any:
    """Where the optimizer's state lies: what belongs to a parameter, with it, and dims that are averaged out, whole."""
    places = {name: (spec.shape, PartitionSpec(*map(TABLE.get, spec.axes))) for name, spec in named(specs)}

    def place(path: tuple[Any, ...], slot: Any) -> NamedSharding:
        for first in range(len(path)):
            shape, axes = places.get(path_name(path[first:]), ((), PartitionSpec()))
            if shape and len(shape) == len(slot.shape):
                kept = zip(axes, shape, slot.shape, strict=True)
                return NamedSharding(mesh, PartitionSpec(*(axis if a == b else None for axis, a, b in kept)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, slots)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_dim(mesh: Mesh, dim: int) -> NamedSharding:
    """Dim `dim` of an array split over the axes of the batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * dim, BATCH))


def batch_shards(mesh: Mesh) -> int:
    """In how many parts a batch is split; devices along the other axes have the same part."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which of how many equal parts of a batch this process has to provide."""
    grid = mesh.devices.reshape(batch_shards(mesh), -1)
    mine = sorted({row for row, devices in enumerate(grid) for d in devices if d.process_index == jax.process_index()})
    assert mine == list(range(mine[0], mine[0] + len(mine))), mine
    assert mine[0] % len(mine) == 0, mine
    return mine[0] // len(mine), len(grid) // len(mine)


# Inside compiled functions.


def within(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled so that its calls of `split` mean this mesh."""
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return wrapped


def split(x: jax.Array, *dims: str | None) -> jax.Array:
    """States how an activation with these named dims (None: whole) lies on the mesh; without a mesh it does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*map(TABLE.get, dims)))


def each_device(function: Callable[..., jax.Array], *arguments: tuple[str | None, ...], out: tuple[str | None, ...]):
    """The function, computed by each device on its own part; the dims of arguments and result are named as in `split`.

    For kernels, which the compiler does not divide. Arguments that are None stay None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    places = [PartitionSpec(*map(TABLE.get, dims)) for dims in (*arguments, out)]

    def divided(*values: Any) -> jax.Array:
        here = tuple(None if value is None else place for value, place in zip(values, places, strict=False))
        return jax.shard_map(function, in_specs=here, out_specs=places[-1], check_vma=False)(*values)

    return divided
