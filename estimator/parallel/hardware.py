"""Device data: peak FLOP/s, memory, and bandwidth to memory and to other devices."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from estimator import invocation

GIB = 2**30
CPUINFO = Path("/proc/cpuinfo")


class Chip(NamedTuple):
    """Data-sheet values of a JAX device.

    peak: dense bfloat16 FLOP/s. memory: bytes that a program may use. bandwidth: memory bandwidth in bytes/s. links:
    total outgoing bytes/s over its links within a domain. domain: number of devices joined by such links (a pod or a
    node). network: outgoing bytes/s to other domains.
    """

    peak: float
    memory: float
    bandwidth: float
    links: float
    domain: int
    network: float


# Keys are JAX's device kinds.
#
# NVIDIA: data sheets of A100 80GB SXM, H100 SXM, H200 SXM and DGX B200; links are NVLink, of which the sheets give both
# directions together; network is one 200 (A100) or 400 Gbit/s adapter for each GPU, as in the maker's own DGX.
#
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, which give links per chip, both directions together (400, 800
# and 1,200 GB/s for v5e, v6e, v5p and tpu7x); v4 has 6 links of 50 GB/s each way (Jouppi et al. 2023). Memory is what
# libtpu 0.0.42 lets a program for one such device have (it says so when it refuses one), a little less than the total.
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
    """Data of a device kind; None for CPUs and unknown devices."""
    matches = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(matches, key=len)] if matches else None


def peak_flops(device: jax.Device, *, count: int = 1) -> float | None:
    """Data-sheet bfloat16 peak in FLOP/s of `count` such devices; None if unknown, as for CPUs."""
    known = chip(device.device_kind)
    return count * known.peak if known else None


def fast_bfloat16(platform: str | None = None) -> bool:
    """Whether bfloat16 products are faster than float32 ones on this process's devices or on `platform`.

    Depends on instructions: some CPUs have them, and NVIDIA GPUs do since Ampere.
    """
    if platform in ("gpu", "tpu"):
        return True
    device = jax.local_devices()[0]
    if device.platform == "gpu":
        return float(getattr(device, "compute_capability", 0)) >= 8
    if device.platform == "cpu":
        flags = CPUINFO.read_text(encoding="utf-8", errors="replace").split() if CPUINFO.is_file() else []
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return True


def unused_accelerator(devices: Path = Path("/dev")) -> str | None:
    """Warning if this machine has an accelerator but JAX computes on the CPU unasked, else an empty string."""
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return None
    if any(devices.glob("nvidia[0-9]*")) or any(devices.glob("dxg")):  # the latter within Windows
        found = "an NVIDIA GPU"
        command = f"{invocation.install('cuda13')}, or {invocation.requirements('cuda12')} for drivers before 580"
    elif any(devices.glob("accel[0-9]*")):
        found, command = "a TPU", invocation.install("tpu")
    else:
        return None
    fix = f"`make setup` installs the right one, and so does {command}"
    return f"this machine has {found}, but the installed JAX computes on the CPU; {fix}"


def fast_precision(platform: str | None = None) -> str:
    """Compute dtype for training on this process's devices or on `platform`.

    NVIDIA GPUs have float16 tensor cores since Volta and bfloat16 ones since Ampere.
    """
    if fast_bfloat16(platform):
        return "bfloat16"
    device = jax.local_devices()[0]
    is_volta = device.platform == "gpu" and float(getattr(device, "compute_capability", 0)) >= 7
    return "float16" if is_volta else "float32"


def memory_limit(devices: Sequence[jax.Device]) -> int:
    """Bytes that a run may use on each of these devices; for a CPU, half of the machine's memory.

    Uses the limit that a local device reports; for remote devices the table.
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
