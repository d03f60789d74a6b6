"""Counts the work of a compiled program from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here each instruction counts as often as it runs: a computation
is followed from the entry, and the body of a loop counts times its trips.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
WIDTHS |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:body|calls|to_apply)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    rest: str  # operands and attributes


class Collective(NamedTuple):
    """One kind of exchange between the devices of a group. size: bytes of the whole array, on one device."""

    kind: str
    size: float
    group: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends, by the algorithm for rings (Patarasuk and Yuan 2009)."""
        rounds = {"all-reduce": 2.0, "collective-permute": self.group / max(1, self.group - 1)}
        return rounds.get(self.kind, 1.0) * self.size * (self.group - 1) / self.group


class Contents(NamedTuple):
    """What one call of a program does on one device. moved: bytes, see `_moved`."""

    collectives: Counter[Collective]
    moved: float
    loops_of_unknown_length: int


def contents(text: str, *, devices: int) -> Contents:
    """Reads `compiled.as_text()`. devices: how many run the program together."""
    computations, entry = _computations(text)
    found: Counter[Collective] = Counter()
    moved, unknown = 0.0, 0
    seen: set[tuple[str, str]] = set()  # parts of one exchange, which is spread over several instructions

    def walk(name: str, times: int, region: str, *, fused: bool) -> None:
        nonlocal moved, unknown
        for instruction in computations[name]:
            operation = instruction.operation
            kind = operation.removesuffix("-start")
            if kind in KINDS:
                part = re.search(r"channel_id=(\d+)", instruction.rest) if "chain_id" in instruction.rest else None
                key = (region, part[1] if part else instruction.name)
                if key not in seen:
                    seen.add(key)
                    found[_collective(instruction, kind, name, devices)] += times
            if not fused:
                moved += times * _moved(instruction, computations)
            if operation == "while":
                trips = _trips(instruction, computations)
                unknown += trips is None
                body = re.search(r"body=%?([\w.\-]+)", instruction.rest)
                assert body, instruction
                walk(body[1], times * (trips or 1), f"{region}/{instruction.name}", fused=False)
            else:
                inside = fused or operation not in ("call", "conditional")
                for called in _called(instruction.rest):
                    walk(called, times, region, fused=inside)

    walk(entry, 1, "", fused=False)
    return Contents(Counter({what: count for what, count in found.items() if what.group > 1}), moved, unknown)


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(Instruction(found[1], found[2], found[3], found[4]))
    return computations, entry


def _called(rest: str) -> Iterator[str]:
    for name, branches in _CALLED.findall(rest):
        yield from [name] if name else re.findall(r"[\w.\-]+", branches)


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop runs: as XLA notes it, or the one number that its condition compares the counter with."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    assert condition, loop
    constants = [i.rest for i in computations[condition[1]] if i.operation == "constant" and i.shape[:3] == "s32"]
    return int(constants[0].partition(")")[0]) if len(constants) == 1 else None


def _arrays(shape: str) -> list[float]:
    """Bytes of each array of a shape, without arrays in a device's fast memory."""
    return [
        0.0 if layout and "S(1)" in layout else WIDTHS.get(kind, 0) * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims, layout in _SHAPE.findall(shape)
    ]


def _collective(instruction: Instruction, kind: str, computation: str, devices: int) -> Collective:
    arrays = _arrays(instruction.shape.replace("S(1)", ""))
    if instruction.operation.endswith("-start") and kind in ("all-gather", "collective-permute"):
        arrays = arrays[len(arrays) // 2 :] if kind == "all-gather" else arrays[:1]  # (sent, received)
    group = _group(instruction.rest, kind, devices)
    size = sum(arrays) * (group if kind == "reduce-scatter" else 1)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # so are they written for TPUs: a sum, of which each keeps its part
    return Collective(kind, size, group)


def _group(rest: str, kind: str, devices: int) -> int:
    """Devices that exchange: explicit groups, an array [groups, size], or axes of a mesh."""
    if kind == "collective-permute":
        return 2
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    return devices


# Instructions that move no data.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all"}
_FREE |= {"partition-id", "replica-id", "iota", "opt-barrier"}


def _moved(instruction: Instruction, computations: dict[str, list[Instruction]]) -> float:
    """Twice the bytes that an instruction writes, because they are also read; an in-place update counts its part.

    An estimate: repeated reads count once, and data that stays in a device's fast memory not at all.
    """
    if instruction.operation in _FREE or instruction.operation.endswith(("-start", "-done")):
        return 0.0
    if '"AllocateBuffer"' in instruction.rest:
        return 0.0
    written = sum(_arrays(instruction.shape))
    inside = [instruction]
    if instruction.operation == "fusion":
        inside = [i for name in _called(instruction.rest) for i in computations[name]]
    shapes = {i.name: i.shape for i in inside}
    for update in inside:
        if update.operation == "dynamic-update-slice":
            part = re.findall(r"%([\w.\-]+)", update.rest)[1]
            written += sum(_arrays(shapes.get(part, ""))) - sum(_arrays(update.shape))
    return 2 * max(0.0, written)
