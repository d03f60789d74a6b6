"""Shardings of declared parameters and of their optimizer state over a mesh."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator.errors import UserError
from estimator.parallel.mesh import AXES, LOGICAL_AXIS_RULES, Axis
from estimator.parallel.param_spec import ParamSpec, map_specs, named, path_name


def split_dims(spec: ParamSpec, axis: Axis) -> list[int]:
    """Dims of a parameter that are sharded over a mesh axis."""
    return [dim for dim, name in enumerate(spec.axes) if LOGICAL_AXIS_RULES.get(name) == axis]


def parameter_shardings(specs: Any, mesh: Mesh) -> Any:
    """Sharding of each declared parameter. Raises UserError if a dim does not divide evenly."""
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
    return map_specs(lambda spec: NamedSharding(mesh, PartitionSpec(*map(LOGICAL_AXIS_RULES.get, spec.axes))), specs)


def slot_shardings(specs: Any, mesh: Mesh, slots: Any) -> Any:
    """Sharding of the optimizer state: like the parameter, with averaged-out dims replicated."""
    places = {name: (spec.shape, PartitionSpec(*map(LOGICAL_AXIS_RULES.get, spec.axes))) for name, spec in named(specs)}

    def place(path: tuple[Any, ...], slot: Any) -> NamedSharding:
        for first in range(len(path)):
            shape, axes = places.get(path_name(path[first:]), ((), PartitionSpec()))
            if shape and len(shape) == len(slot.shape):
                kept = zip(axes, shape, slot.shape, strict=True)
                return NamedSharding(mesh, PartitionSpec(*(axis if a == b else None for axis, a, b in kept)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, slots)
