"""`--rehearse`: compiles the training step for another machine, and estimates its memory and time there.

For TPUs the real step is compiled and read: memory, memory traffic and collectives are the compiler's. For GPUs nothing
can be compiled from here, so the same report is made by formula and says so.
"""

import contextlib
import copy
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from estimator import json_text, storage
from estimator.aot import hlo, roofline, topologies
from estimator.aot.hlo import Collective
from estimator.errors import UserError
from estimator.parallel.mesh import batch_shards, split_dim
from estimator.quantities import size
from estimator.training.dry_run import TrainingPlan, device_bytes, summary

STEPS = 10**9  # of a run that is only imagined: the schedule's end changes nothing of a step's cost


class Measured(NamedTuple):
    """Needs of one device for a step. state, working: bytes. moved: bytes of memory traffic. seconds: to compile."""

    state: float
    working: float
    moved: float
    collectives: list[tuple[str, float, int, int]]  # kind, size, group, times
    unknown_loops: int
    seconds: float

    @property
    def memory(self) -> float:
        return self.state + self.working

    def counter(self) -> Counter[Collective]:
        return Counter({Collective(kind, size, group): times for kind, size, group, times in self.collectives})


def rows(collectives: Counter[Collective]) -> list[tuple[str, float, int, int]]:
    return [(what.kind, what.size, what.group, times) for what, times in sorted(collectives.items())]


def rehearse(name: str, make: Callable[..., Any], choice: Callable[..., Any], *, cache: Path) -> None:
    """Prints what training would take on the machine `name`.

    make(total_steps=, platform=, devices=): an Estimator. choice(platform=): the attention program. cache: folder
    of earlier results. Raises UserError, with the fixes, when the file cannot be trained there.
    """
    topology = topologies.find(name)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, so no accelerator of this machine is taken
    devices = topologies.devices(topology)
    estimator = make(total_steps=STEPS, platform=topology.platform, devices=devices)
    estimator.config = estimator.config.model_copy(update={"iterations": 1})
    plan = estimator.plan(total_steps=STEPS, first_step=0)
    print(heading(topology, plan), choice(platform=topology.platform), sep="\n", flush=True)
    if topology.platform == "gpu":
        expected = estimated(plan)
        check_fits(topology, plan, expected.memory)
        print(report(topology, plan, expected))
        return
    measured = compiled(estimator, plan, topology, cache)
    print(report(topology, plan, measured), flush=True)
    other = smaller(estimator, plan)
    if other:
        print(largest(topology, plan, measured, other[1], compiled(*other, topology, cache)))
    else:
        print("micro_batch_size: 1 fits; whether more does was not tried")


def heading(topology: topologies.Topology, plan: TrainingPlan) -> str:
    wired = f", {topology.shape}" if topology.shape else ""
    axes = ", ".join(f"{axis} {count}" for axis, count in plan.mesh.shape.items())
    lines = summary(plan).splitlines()[:-1]
    return "\n".join([f"rehearsal of {topology.name}{wired}", *lines, f"mesh: {axes}"])


def compiled(estimator: Any, plan: TrainingPlan, topology: topologies.Topology, cache: Path) -> Measured:
    """Compiles the training step, or reads the result of an earlier compilation."""
    program, _ = estimator.program(plan.spec, plan.accumulation, plan.state)
    shape = (plan.accumulation, plan.batch // plan.accumulation, plan.spec.tokens_per_example + 1)
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=split_dim(plan.mesh, 1))
    with topologies.quiet():
        lowered = program.lower(plan.state, {"tokens": tokens}, 1)
    identity = (lowered.as_text(), topology, topologies.compiler(topology), jax.__version__)
    path = cache / "rehearsals" / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # none, or a damaged one
        return Measured(**json_text.loads(path.read_text(encoding="utf-8")))
    began = time.monotonic()
    try:
        with topologies.quiet():
            executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise refusal(topology, plan, str(error)) from None
    memory = executable.memory_analysis()
    found = hlo.contents(executable.as_text(), devices=topology.devices)
    measured = Measured(
        state=memory.argument_size_in_bytes,
        working=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        moved=found.moved,
        collectives=rows(found.collectives),
        unknown_loops=found.loops_of_unknown_length,
        seconds=round(time.monotonic() - began),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes_atomic(str(path), json.dumps(measured._asdict()).encode())
    return measured


def refusal(topology: topologies.Topology, plan: TrainingPlan, error: str) -> UserError:
    """The compiler's refusal in the words of the JSON file."""
    if "RESOURCE_EXHAUSTED" not in error and "hbm" not in error.lower():
        return UserError(f"--rehearse {topology.name}: the compiler refused the step: {error.strip().splitlines()[0]}")
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", error)
    used = used or re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", error)
    needs = f"{used[1]}iB of the {used[2]}iB of a device" if used else "more than the memory of a device"
    return too_large(topology, plan, needs)


def too_large(topology: topologies.Topology, plan: TrainingPlan, needs: str) -> UserError:
    fixes = [f"micro_batch_size {plan.micro_batch // 2 or 1}"] if plan.micro_batch > 1 else []
    fixes.append('remat "full", or "dots"')
    if plan.mesh.shape["fsdp"] < plan.mesh.size:
        fixes.append(f'"fsdp": {plan.mesh.shape["fsdp"] * 2} in mesh')
    return UserError(
        f"--rehearse {topology.name}: the step does not fit: it needs {needs}, with {plan.micro_batch} sequences "
        f"together and a state of {size(device_bytes(plan.state))}; write " + ", or ".join(fixes)
    )


def check_fits(topology: topologies.Topology, plan: TrainingPlan, needed: float) -> None:
    if needed > topology.chip.memory:
        needs = f"about {size(needed)} of the {size(topology.chip.memory)} of a device"
        raise too_large(topology, plan, needs)


def estimated(plan: TrainingPlan) -> Measured:
    """The same by formula, for what cannot be compiled for here: the plan's memory, the mesh's collectives. Memory
    traffic: the state and gradients once, and what the backward pass keeps twice written and read."""
    state = device_bytes(plan.state)
    working = plan.gradient_bytes + plan.working_bytes
    moved = 2 * state + plan.accumulation * (2 * device_bytes(plan.state.params) + 4 * plan.working_bytes)
    collectives = by_formula(plan)
    return Measured(state, working, moved, rows(collectives), 0, 0)


def by_formula(plan: TrainingPlan) -> Counter[Collective]:
    return roofline.expected(
        plan.spec.parameters,
        sizes=dict(plan.mesh.shape),
        micro_batch=plan.micro_batch,
        tokens=plan.spec.tokens_per_example,
        parts=plan.accumulation,
        width=2 if plan.spec.copy_bytes else 4,
    )


def smaller(estimator: Any, plan: TrainingPlan) -> tuple[Any, TrainingPlan] | None:
    """The same with half the micro-batch on the same mesh, in as many parts; None of a micro-batch of 1."""
    if plan.micro_batch == 1:
        return None
    micro = plan.micro_batch // 2
    batch = micro * plan.accumulation * batch_shards(plan.mesh)
    other = copy.copy(estimator)  # with its mesh
    other.config = estimator.config.model_copy(update={"micro_batch_size": micro, "train_batch_size": batch})
    return other, other.plan(total_steps=STEPS, first_step=0)


def largest(
    topology: topologies.Topology, plan: TrainingPlan, measured: Measured, half: TrainingPlan, of_half: Measured
) -> str:
    """The largest micro-batch by the line through two compiled ones."""
    slope = (measured.memory - of_half.memory) / (plan.micro_batch - half.micro_batch)
    if slope <= 0:
        return "largest micro_batch_size: unknown, two sizes took the same memory"
    most = int((topology.chip.memory - measured.memory) / slope) + plan.micro_batch
    share = plan.batch // batch_shards(plan.mesh)
    dividing = max(n for n in range(1, share + 1) if share % n == 0 and n <= max(most, 1))
    points = f"{half.micro_batch} ({size(of_half.memory)}) and {plan.micro_batch} ({size(measured.memory)})"
    return (
        f"largest micro_batch_size that fits: about {most}, by the line through {points}, both compiled; "
        f"of those that divide a device's {share} sequences: {dividing}"
    )


def report(topology: topologies.Topology, plan: TrainingPlan, measured: Measured) -> str:
    """The tables of a rehearsal."""
    source = "an estimate by formula: nothing was compiled"
    if topology.platform == "tpu":
        source = f"compiled by {topologies.compiler(topology)} in {measured.seconds:.0f} s"
    limit = topology.chip.memory
    by_plan = size(estimated(plan).memory)
    share = f"{size(limit)}, {measured.memory / limit:.0%}; by the formula of --dry_run {by_plan}"
    lines = [
        "",
        f"a device's memory ({source})",
        f"  parameters, optimizer, batch   {size(measured.state):>9}",
        f"  gradients, activations, code   {size(measured.working):>9}",
        f"  in all                         {size(measured.memory):>9} of {share}",
        "",
        *collective_lines(topology, measured),
        "",
        *step_lines(topology, plan, measured),
        "",
    ]
    return "\n".join(lines)


def collective_lines(topology: topologies.Topology, measured: Measured) -> list[str]:
    """A line for each kind and size of group: how often, the largest array, what a device sends in a step."""
    chip = topology.chip
    table: dict[tuple[str, int], list[float]] = {}
    for what, count in measured.counter().items():
        row = table.setdefault((what.kind, what.group), [0, 0.0, 0.0, 0.0])
        row[0] += count
        row[1] = max(row[1], what.size)
        row[2] += count * what.sent
        row[3] += count * roofline.link_seconds(chip, what)
    heads = ("collectives of a step", "group", "times", "largest", "sent in all", "at link speed")
    lines: list[str] = ["{:<24}{:>6}{:>7}{:>10}{:>13}{:>16}".format(*heads)]
    for (kind, group), (count, largest, sent, taken) in sorted(table.items(), key=lambda row: -row[1][3]):
        lines.append(f"  {kind:<22}{group:>6}{count:>7}{size(largest):>10}{size(sent):>13}{1e3 * taken:>13.2f} ms")
    if not table:
        lines.append("  none")
    if measured.unknown_loops:
        lines.append(f"  {measured.unknown_loops} loops of unknown length are counted once")
    return lines


def step_lines(topology: topologies.Topology, plan: TrainingPlan, measured: Measured) -> list[str]:
    """Bounds of a step's time by the data sheet."""
    chip, collectives = topology.chip, measured.counter()
    flops = plan.tokens_per_step * plan.spec.flops_per_token
    each = flops / topology.devices
    times = roofline.times(chip, flops=each, moved=measured.moved, collectives=collectives)
    sent = sum(what.sent * count for what, count in collectives.items())
    note = f"{flops:.3g} in all, recomputation not counted"

    def part(name: str, amount: str, speed: str, seconds: float) -> str:
        return f"  {name:<12}{amount:>14} at {speed:>13} {1e3 * seconds:>10.2f} ms"

    def bound(name: str, seconds: float) -> str:
        rate = plan.tokens_per_step / seconds
        mfu = each / chip.peak / seconds
        return f"  {name + ':':<20}{1e3 * seconds:>10.2f} ms, MFU {mfu:.0%}, {rate:,.0f} tokens/s"

    return [
        "bounds of a step by the data sheet",
        part("arithmetic", f"{each:.3g} FLOP", f"{chip.peak / 1e12:,.0f} TFLOP/s", times.arithmetic) + f" ({note})",
        part("memory", size(measured.moved), f"{chip.bandwidth / 1e9:,.0f} GB/s", times.memory),
        part("links", size(sent), f"{chip.links / 1e9:,.0f} GB/s", times.links),
        bound("all overlapped", times.best),
        bound("nothing overlapped", times.worst),
    ]
