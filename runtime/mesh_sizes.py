"""Which mesh: the sizes of its axes as the configuration gives them, or by the model, and the devices' places in it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from runtime.errors import UserError
from runtime.mesh import AXES, Axis, split_dims
from runtime.params import named


def make_mesh(sizes: dict[Axis, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices (default: all) along the axes; a size of -1 is what the others leave, an axis not named has size 1.

    Without sizes, all devices are along the data axis. Several slices or nodes lie along the data axis too.
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
    """The size of each of AXES; UserError when they do not multiply to the number of devices."""
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"mesh: {sizes}: give sizes of 1 or more, and -1 for at most one axis, which takes the rest")
    given = math.prod(size for size in shape if size != -1)
    shape = [devices // given if size == -1 else size for size in shape]
    if math.prod(shape) != devices or 0 in shape:
        wanted = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
        raise UserError(
            f"mesh: {wanted} does not give the {devices} device{'s'[: devices > 1]} here; "
            'leave one axis to take the rest: "data": -1'
        )
    return tuple(shape)


def automatic(specs: Any, *, devices: int, batch: int, state_bytes: float, limit: float) -> tuple[dict[Axis, int], str]:
    """A mesh for a model and why: as much data parallelism as the batch and the memory of a device allow.

    batch: examples of a step. state_bytes: of parameters, gradients and optimizer, unsplit. limit: what a device has.
    """
    choices = [size for size in range(1, devices + 1) if devices % size == 0]
    fits = functools.partial(_divides, specs)
    tensor = next((t for t in choices if batch % (devices // t) == 0 and fits("tensor", t)), 1)
    splits = [f for f in choices if devices // tensor % f == 0 and fits("fsdp", f)]
    enough = [f for f in splits if state_bytes / (f * tensor) <= limit / 2]
    fsdp = enough[0] if enough else splits[-1]
    reasons = []
    if tensor > 1:
        reasons.append(f"{batch} sequences do not divide among {devices} devices")
    if fsdp > 1:
        reasons.append(f"a whole copy of the state would take {state_bytes / 1e9:.1f} of {limit / 1e9:.1f} GB")
    sizes: dict[Axis, int] = {"data": devices // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}
    return sizes, ", ".join(reasons) or "the state fits on each device"


def _divides(specs: Any, axis: Axis, size: int) -> bool:
    """Whether there is something to split over the axis, and it divides."""
    sizes = [spec.shape[dim] for _, spec in named(specs) for dim in split_dims(spec, axis)]
    return size == 1 or (bool(sizes) and all(each % size == 0 for each in sizes))
