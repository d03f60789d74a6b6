"""Names of machines that need not be here: `v5e-256`, `v6e-64`, `v5p-512`, `h100x8`.

Names of TPUs are Google's accelerator types: of v5e and v6e they count chips, of v4, v5p and tpu7x cores, of which a
chip has two.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from estimator import invocation
from estimator.aot.tpu_slices import CUBES, FLAT
from estimator.config import did_you_mean
from estimator.errors import UserError
from estimator.parallel import hardware


class Family(NamedTuple):
    """kind: JAX's name of the device. per_chip: units that the name counts, and JAX devices, of a chip."""

    kind: str
    shapes: dict[int, str]
    counted_per_chip: int
    devices_per_chip: int


TPUS = {
    "v4": Family("TPU v4", CUBES, 2, 1),
    "v5e": Family("TPU v5 lite", FLAT, 1, 1),
    "v5p": Family("TPU v5", CUBES, 2, 1),
    "v6e": Family("TPU v6 lite", FLAT, 1, 1),
    "tpu7x": Family("TPU7x", CUBES, 2, 2),
}
GPUS = {"a100": "NVIDIA A100", "h100": "NVIDIA H100", "h200": "NVIDIA H200", "b200": "NVIDIA B200"}
EXAMPLES = "v5e-256, v6e-64, v5p-512, h100x8"


class Topology(NamedTuple):
    """A machine.

    devices: as JAX counts them, of a `kind` of estimator.parallel.hardware. shape: how TPU chips are wired.
    """

    name: str
    platform: str
    kind: str
    devices: int
    shape: str = ""

    @property
    def chip(self) -> hardware.Chip:
        return hardware.CHIPS[self.kind]


@dataclasses.dataclass(frozen=True)
class AbsentDevice:
    """The attributes of a device that a mesh needs, where nothing is compiled."""

    id: int
    device_kind: str
    platform: str
    process_index: int = 0

    def memory_stats(self) -> None:
        return None


def find(name: str) -> Topology:
    """The machine of a name; raises UserError that lists the known names."""
    if found := re.fullmatch(r"(\w+?)x(\d+)", name):
        family, count = found[1], int(found[2])
        if family in GPUS and count > 0:
            return Topology(name, "gpu", GPUS[family], count)
    wanted = re.fullmatch(r"(\w+)-(\d+)", name)
    family = wanted[1].replace("v5litepod", "v5e") if wanted else ""
    if not wanted or family not in TPUS:
        near = did_you_mean(family or name, [*TPUS, *GPUS])
        kinds = ", ".join([*(f"{tpu}-N" for tpu in TPUS), *(f"{gpu}xN" for gpu in GPUS)])
        raise UserError(f"--rehearse: no machine {name!r}{near}; available: {kinds}, as in {EXAMPLES}")
    kind, shapes, counted, per_chip = TPUS[family]
    chips, rest = divmod(int(wanted[2]), counted)
    if rest or chips not in shapes:
        sizes = ", ".join(str(chips * counted) for chips in shapes)
        raise UserError(f"--rehearse: {name}: a slice of {family} has one of these sizes: {sizes}")
    return Topology(name, "tpu", kind, chips * per_chip, shapes[chips])


def devices(topology: Topology) -> list[Any]:
    """The devices to compile for; of GPUs, which cannot be compiled for from here, only their description."""
    if topology.platform == "gpu":
        return [AbsentDevice(i, topology.kind, "gpu") for i in range(topology.devices)]
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--rehearse {topology.name}: TPUs are compiled for by libtpu, which is not installed; "
            f"{invocation.install('tpu')} (Linux, no TPU needed)"
        )
    from jax.experimental import topologies

    # It would ask Google's metadata service about this machine, and allow one process at a time.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    family = next(name for name, family in TPUS.items() if family.kind == topology.kind)
    options: dict[str, Any] = {"chip_config_name": "megacore"} if family == "v4" else {}
    if topology.shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    with quiet():
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{family}:{topology.shape}", **options)
    assert len(found.devices) == topology.devices, (topology, len(found.devices))
    return list(found.devices)


def compiler(topology: Topology) -> str:
    """Name and version of what compiles for it."""
    return f"libtpu {importlib.metadata.version('libtpu')}" if topology.platform == "tpu" else "no compiler"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides libtpu's output on the standard error stream: its errors are raised too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
