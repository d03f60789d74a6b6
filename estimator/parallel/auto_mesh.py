"""Chooses the mesh: axis sizes from the configuration or the model, and the order of devices."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from estimator.errors import UserError
from estimator.parallel.mesh import AXES, Axis
from estimator.parallel.param_spec import named
from estimator.parallel.shardings import split_dims
from estimator.quantities import numbered


def make_mesh(sizes: dict[Axis, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds a mesh of the devices (default: all). A size of -1 takes the rest; an axis not named has size 1.

    Without sizes all devices are on the data axis, as are several slices or nodes.
    """
    devices = list(devices or jax.devices())
    shape = resolve(sizes or {"data": -1}, devices=len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and shape[0] % slices == 0:
        inner, outer = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES)


def resolve(sizes: dict[Axis, int], *, devices: int) -> tuple[int, ...]:
    """Size of each of AXES. Raises UserError unless their product is the number of devices."""
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"mesh: {sizes}: give sizes of 1 or more, and -1 for at most one axis, which takes the rest")
    given = math.prod(size for size in shape if size != -1)
    shape = [devices // given if size == -1 else size for size in shape]
    if math.prod(shape) != devices or 0 in shape:
        wanted = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
        others = math.prod(size for axis, size in sizes.items() if axis != "data" and size != -1)
        fix = 'leave one axis to take the rest: "data": -1' if devices % others == 0 else "make the sizes smaller"
        raise UserError(
            f"mesh: {wanted} does not give the {devices} device{'s'[: devices > 1]} here; {fix}, or leave mesh out "
            "(null): the same run continues on any devices"
        )
    return tuple(shape)


def automatic(specs: Any, *, devices: int, batch: int, state_bytes: float, limit: float) -> tuple[dict[Axis, int], str]:
    """Mesh axis sizes for a model and the reason: as much data parallelism as batch and device memory allow.

    batch: examples per step. state_bytes: unsharded parameters, gradients and optimizer state. limit: bytes per device.
    """
    choices = [size for size in range(1, devices + 1) if devices % size == 0]
    fits = functools.partial(_divides, specs)
    tensor = next((t for t in choices if batch % (devices // t) == 0 and fits("tensor", t)), 1)
    splits = [f for f in choices if devices // tensor % f == 0 and fits("fsdp", f)]
    enough = [f for f in splits if state_bytes / (f * tensor) <= limit / 2]
    fsdp = enough[0] if enough else splits[-1]
    reasons = []
    if tensor > 1:
        reasons.append(f"{numbered(batch, 'sequence')} cannot be divided among {devices} devices")
    if fsdp > 1:
        reasons.append(f"a whole copy of the state would take {state_bytes / 1e9:.1f} of {limit / 1e9:.1f} GB")
    sizes: dict[Axis, int] = {"data": devices // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}
    return sizes, ", ".join(reasons) or "the state fits on each device"


def _divides(specs: Any, axis: Axis, size: int) -> bool:
    """Whether the size divides something that the axis shards."""
    sizes = [spec.shape[dim] for _, spec in named(specs) for dim in split_dims(spec, axis)]
    return size == 1 or (bool(sizes) and all(each % size == 0 for each in sizes))
