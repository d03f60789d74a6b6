"""What is known of a device: its peak rate, its memory, and how fast it reaches both memory and other devices."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

GIB = 2**30


class Chip(NamedTuple):
    """A device as JAX counts them, from its maker's data sheet.

    peak: dense bfloat16 matrix products, FLOP/s. memory: bytes that a program may use. bandwidth: of that memory, bytes
    per second. links: bytes per second that leave it, over all its links to the devices of its domain together. domain:
    how many devices such links join (of a pod, or of a node). network: bytes per second that leave it for others.
    """

    peak: float
    memory: float
    bandwidth: float
    links: float
    domain: int
    network: float


# By the name that JAX gives the device.
#
# NVIDIA: data sheets of A100 80GB SXM, H100 SXM, H200 SXM and DGX B200; links are NVLink, of which the sheets give both
# directions together; network is one 200 (A100) or 400 Gbit/s adapter for each GPU, as in the maker's own DGX.
#
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, which give links per chip, both directions together (400, 800
# and 1,200 GB/s for v5e, v6e, v5p and tpu7x); v4 has 6 links of 50 GB/s each way (Jouppi et al. 2023). Memory is what
# libtpu 0.0.42 lets a program for one such device have (it says so when it refuses one), a little less than is there.
# A TPU7x chip counts as two devices, so these are halves of a chip's figures.
CHIPS = {
    "NVIDIA A100": Chip(312e12, 80e9, 2.039e12, 300e9, 8, 25e9),
    "NVIDIA H100": Chip(989e12, 80e9, 3.35e12, 450e9, 8, 50e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4.8e12, 450e9, 8, 50e9),
    "NVIDIA B200": Chip(2250e12, 180e9, 8.0e12, 900e9, 8, 50e9),
    "TPU v4": Chip(275e12, 30.75 * GIB, 1.2e12, 300e9, 4096, 6.25e9),
    "TPU v5 lite": Chip(197e12, 15.75 * GIB, 0.819e12, 200e9, 256, 3.125e9),
    "TPU v5": Chip(459e12, 95.74 * GIB, 2.765e12, 600e9, 8960, 6.25e9),
    "TPU v6 lite": Chip(918e12, 31.25 * GIB, 1.6e12, 400e9, 256, 12.5e9),
    "TPU7x": Chip(1153.5e12, 94.75 * GIB, 3.69e12, 300e9, 18432, 6.25e9),
}


def chip(kind: str) -> Chip | None:
    """What is known of a device of this kind; None of CPUs and of what is not in the table."""
    matches = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(matches, key=len)] if matches else None


def peak_flops(device: jax.Device) -> float | None:
    """The device's datasheet peak for bfloat16 products, or None when it is not known (as for CPUs)."""
    known = chip(device.device_kind)
    return known.peak if known else None


def fast_bfloat16(platform: str | None = None) -> bool:
    """Whether bfloat16 products are faster than float32 ones on this process's devices, or on those of a platform.

    CPUs have instructions for them, or convert every number; of NVIDIA's GPUs those since Ampere do.
    """
    if platform in ("gpu", "tpu"):
        return True
    device = jax.local_devices()[0]
    if device.platform == "gpu":
        return float(getattr(device, "compute_capability", 0)) >= 8
    if device.platform == "cpu":
        about = Path("/proc/cpuinfo")
        flags = about.read_text().split() if about.is_file() else []
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return True


def memory_limit(devices: Sequence[jax.Device]) -> int:
    """Bytes that a run may use on each of these devices; for a CPU, half of the machine's memory.

    What one of this process's own devices says of itself counts, and for devices that are not here the table.
    """
    device = next((device for device in devices if device.process_index == jax.process_index()), devices[0])
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if device.platform == "cpu":
        return of_machine
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:  # it is not of this machine
        stats = None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    known = chip(device.device_kind)
    return int(known.memory) if known else of_machine
