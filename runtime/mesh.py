"""Devices as a mesh with named axes, and where arrays lie on it.

Models name the dims of their parameters; the table here says which mesh axis, if any, a named dim is split over.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from runtime.params import ParamSpec, map_specs

DATA = "data"

# Parameters are whole on every device; the batch is split over the data axis.
PARAMETER_AXES: dict[str, str | None] = {}

# Peak of dense bfloat16 matrix products in FLOP/s, from the makers' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
}


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) along the data axis."""
    return Mesh(np.asarray(devices or jax.devices()), (DATA,))


def parameter_shardings(specs: Any, mesh: Mesh) -> Any:
    """Where each declared parameter lies."""

    def place(spec: ParamSpec) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(PARAMETER_AXES.get(axis) for axis in spec.axes)))

    return map_specs(place, specs)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_dim(mesh: Mesh, dim: int) -> NamedSharding:
    """Dim `dim` of an array split over the data axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * dim, DATA))


def peak_flops(device: jax.Device) -> float | None:
    """The device's datasheet peak for bfloat16 products, or None when it is not known (as for CPUs)."""
    kind = device.device_kind
    matches = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def memory_limit(device: jax.Device) -> int:
    """Bytes that a run may use on the device; for a CPU, half of the machine's memory."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
