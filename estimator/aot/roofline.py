"""How long a step takes at best and at worst on a known device, and the collectives that a mesh needs, by formula.

At best all is hidden behind the slowest of arithmetic, memory and links; at worst they wait for each other. Either way
each runs at the rate of the data sheet, which no program reaches: these are bounds, and no forecasts.
"""

import math
from collections import Counter
from typing import Any, NamedTuple

from estimator.aot.hlo import Collective
from estimator.parallel.hardware import Chip
from estimator.parallel.mesh import LOGICAL_AXIS_RULES
from estimator.parallel.param_spec import LAYER, named


class Times(NamedTuple):
    """Seconds of a step on each device."""

    arithmetic: float
    memory: float
    links: float

    @property
    def best(self) -> float:
        return max(self)

    @property
    def worst(self) -> float:
        return sum(self)


def times(chip: Chip, *, flops: float, moved: float, collectives: Counter[Collective]) -> Times:
    """All of one device. moved: bytes in its memory."""
    links = sum(link_seconds(chip, what) * count for what, count in collectives.items())
    return Times(flops / chip.peak, moved / chip.bandwidth, links)


def link_seconds(chip: Chip, what: Collective) -> float:
    """A group in one domain exchanges over its links. A larger one does so inside of each domain, and each device then
    exchanges its part with those of the other domains over the network."""
    inside = min(what.group, chip.domain)
    seconds = what._replace(group=inside).sent / chip.links
    if what.group > inside:
        across = Collective(what.kind, what.size / inside, math.ceil(what.group / inside))
        seconds += across.sent / chip.network
    return seconds


def expected(
    specs: Any, *, sizes: dict[str, int], micro_batch: int, tokens: int, parts: int, width: int
) -> Counter[Collective]:
    """The collectives of a step that its mesh asks for, by formula; a compiler may choose others.

    sizes: of the axes. parts: how many micro-batches of `micro_batch` examples of `tokens` tokens a device computes one
    after the other. width: bytes of a number in products. Each part gathers the weights of an fsdp group twice, sums
    up their gradients, and then those of the data axis; of a tensor group it sums up four activations for each layer.
    """
    data, fsdp, tensor = (sizes[axis] for axis in ("data", "fsdp", "tensor"))
    layers = {name: spec for name, spec in named(specs) if LAYER in spec.axes}
    depth = max((spec.shape[spec.axes.index(LAYER)] for spec in layers.values()), default=1)
    embed = max(
        (size for _, spec in named(specs) for size, axis in zip(spec.shape, spec.axes, strict=True) if axis == "embed"),
        default=0,
    )
    found: Counter[Collective] = Counter()
    for name, spec in named(specs):
        in_layers = name in layers
        count = depth if in_layers else 1
        each = math.prod(spec.shape) / count
        size = each * (width if spec.rows and in_layers else 4) / (tensor if _is_split(spec, "tensor") else 1)
        if _is_split(spec, "fsdp"):
            found[Collective("all-gather", size, fsdp)] += 2 * parts * count
            found[Collective("reduce-scatter", size, fsdp)] += parts * count
            found[Collective("all-reduce", size / fsdp, data)] += parts * count
        else:
            found[Collective("all-reduce", size, data * fsdp)] += parts * count
    found[Collective("all-reduce", micro_batch * tokens * embed * width, tensor)] += 4 * depth * parts
    return Counter({what: count for what, count in found.items() if what.group > 1})


def _is_split(spec: Any, axis: str) -> bool:
    return any(LOGICAL_AXIS_RULES.get(name) == axis for name in spec.axes)
