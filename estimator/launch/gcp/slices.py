"""TPU slices that can be created, such as v6e-16, and their parameters in Google's two APIs.

Sizes are those of Google's documentation: of v5e and v6e a name counts chips, of v4, v5p and tpu7x cores, of which a
chip has two. v5p, v6e and tpu7x are created in Compute Engine, v4 and v5e by the older TPU API, which is not developed
any further.
"""

import re
from typing import Literal, NamedTuple

from estimator.aot.tpu_slices import CUBES, FLAT
from estimator.config import did_you_mean
from estimator.errors import UserError

Api = Literal["compute", "tpu"]
IMAGES = "projects/ubuntu-os-accelerator-images/global/images/family"
EXAMPLES = "v6e-16, v5p-8, v4-32"


class Family(NamedTuple):
    """per_chip: what a name counts of a chip. legacy: its name in the TPU API; software: its runtime version there.
    machine: Compute Engine's type; {} is the number of chips of a host. disk: a type that the machine can start from.
    Empty where there is none."""

    shapes: dict[int, str]
    per_chip: int
    legacy: str
    machine: str = ""
    image: str = ""
    disk: str = ""
    software: str = ""


FAMILIES = {
    "v4": Family(CUBES, 2, "v4", software="tpu-ubuntu2204-base"),
    "v5e": Family(FLAT, 1, "v5litepod", software="v2-alpha-tpuv5-lite"),
    "v5p": Family(
        CUBES, 2, "v5p", "ct5p-hightpu-{}t", f"{IMAGES}/ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e", "pd-balanced",
        "v2-alpha-tpuv5",
    ),
    "v6e": Family(
        FLAT, 1, "v6e", "ct6e-standard-{}t", f"{IMAGES}/ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e",
        "hyperdisk-balanced", "v2-alpha-tpuv6e",
    ),
    "tpu7x": Family(
        CUBES, 2, "", "tpu7x-standard-{}t", f"{IMAGES}/ubuntu-accel-2404-amd64-tpu-tpu7x", "hyperdisk-balanced"
    ),
}  # fmt: skip


class Slice(NamedTuple):
    """A slice. shape: how its chips are wired. hosts: its machines."""

    name: str
    family: Family
    size: int
    chips: int
    shape: str

    @property
    def hosts(self) -> int:
        single = 8 if self.family.shapes is FLAT else 4  # chips that one machine can have
        return 1 if self.chips <= single else self.chips // 4

    @property
    def machine(self) -> str:
        return self.family.machine.format(self.chips // self.hosts)

    @property
    def legacy_name(self) -> str:
        """The TPU API's acceleratorType."""
        return f"{self.family.legacy}-{self.size}"


def find(kind: str) -> Slice:
    """The slice of a name; raises UserError that lists the known names."""
    wanted = re.fullmatch(r"(\w+?)-(\d{1,5})", kind)
    name = wanted[1].replace("v5litepod", "v5e") if wanted else ""
    if not wanted or name not in FAMILIES:
        near = did_you_mean(name or kind, FAMILIES)
        kinds = ", ".join(f"{each}-N" for each in FAMILIES)
        raise UserError(f"--tpu_create {kind}: no such TPU{near}; available: {kinds}, as in {EXAMPLES}")
    family, size = FAMILIES[name], int(wanted[2])
    chips, rest = divmod(size, family.per_chip)
    if rest or chips not in family.shapes:
        sizes = ", ".join(f"{name}-{chips * family.per_chip}" for chips in family.shapes)
        raise UserError(f"--tpu_create {kind}: no such size; available: {sizes}")
    return Slice(f"{name}-{size}", family, size, chips, family.shapes[chips])


def api_of(wanted: Slice, asked: Api | None) -> Api:
    """Which interface creates it: the one asked for, else Compute Engine where that knows it."""
    if asked == "compute" and not wanted.family.machine:
        raise UserError(f"--tpu_api compute: Compute Engine has no {wanted.name}; leave --tpu_api out")
    if asked == "tpu" and not wanted.family.software:
        raise UserError(f"--tpu_api tpu: the TPU API has no {wanted.name}; leave --tpu_api out")
    return asked or ("compute" if wanted.family.machine else "tpu")
