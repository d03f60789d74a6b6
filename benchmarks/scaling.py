"""Projects scaling to 4,096 chips from a rehearsal's collectives and the links' published speeds.

python -m benchmarks.scaling                 117M and 1.5B on v5e and v5p; needs libtpu, compiles for minutes once
python -m benchmarks.scaling --cache DIR     where main.py keeps its rehearsals: compiled once for both

Nothing here is measured. One rehearsal of a model gives each device's collectives, their sizes and groups; with more
chips the groups of data grow, and all else stays. The tables begin with the assumptions.
"""

import argparse
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import optimizers
from estimator.aot import rehearse, roofline, topologies
from estimator.aot.hlo import Collective
from estimator.errors import run_program
from estimator.estimator import Estimator
from estimator.parallel import hardware
from estimator.training.dry_run import TrainingPlan
from estimator.training.run_config import RunConfig
from models import MODELS

ROOT = Path(__file__).resolve().parent.parent
BASES = {"117M": ("v5e-8", {"scan_layers": True}), "1.5B": ("v5e-256", {})}
CHIPS = ("TPU v5 lite", "TPU v5")
COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LARGE_BATCH = 4096  # sequences; 4 M tokens, as GPT-3 175B had (Brown et al. 2020: 3.2 M)
ASSUMPTIONS = """assumptions
- each device's collectives, their sizes, groups and numbers are those that {compiler} compiled for {machine};
- more chips lengthen the data axis; the fsdp axis stays, so a group of fsdp stays within one domain of fast links;
- a device computes micro-batches of at most {micro} sequences, one after the other; each has all the collectives, for
  XLA sums the gradients up over the data axis in every one of them;
- memory traffic goes along lines through the micro-batches that were compiled, and through nothing for none;
- exchanges go round rings at the links' whole speed, and beyond {domains}
  over the network, each device with its part;
- arithmetic at the data sheet's peak, no latencies, no stragglers, no waiting for data: the figures are bounds;
- "apart": exchanges wait for arithmetic and memory; "over": they hide behind them as far as they can.
"""


class Base(NamedTuple):
    """A rehearsed step: what one device does. moved: bytes in memory in a part, by the micro-batch."""

    plan: TrainingPlan
    measured: rehearse.Measured
    moved: dict[int, float]

    @property
    def fsdp(self) -> int:
        return self.plan.mesh.shape["fsdp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "cache", help="folder of earlier rehearsals")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("libtpu"):
        print("scaling: left out, because it needs libtpu: pip install -r requirements-tpu.txt", file=sys.stderr)
        return
    jax.config.update("jax_platforms", "cpu")
    reached: dict[str, float] = {}
    for name, (machine, changes) in BASES.items():
        base = rehearsed(name, machine, changes, cache=arguments.cache)
        domains = " and ".join(f"{hardware.CHIPS[kind].domain:,} of {kind}" for kind in CHIPS)
        compiler = topologies.compiler(topologies.find(machine))
        print(f"\n{name}, mesh with fsdp {base.fsdp}\n")
        print(ASSUMPTIONS.format(compiler=compiler, machine=machine, micro=base.plan.micro_batch, domains=domains))
        for kind in CHIPS:
            share = base.plan.batch // base.plan.mesh.size
            weak = [(count, count * share) for count in COUNTS if count >= base.fsdp]
            strong = [(count, base.plan.batch) for count in COUNTS if base.fsdp <= count <= base.plan.batch]
            large = [(count, LARGE_BATCH) for count in COUNTS if base.fsdp <= count <= LARGE_BATCH]
            rows = table(base, kind, weak)
            print(f"{name} on {kind}: weak scaling, {share} sequences a chip", *rows[0], sep="\n")
            print(
                f"{name} on {kind}: strong scaling, {base.plan.batch} sequences",
                *table(base, kind, strong)[0],
                sep="\n",
            )
            print(f"{name} on {kind}: strong scaling, {LARGE_BATCH} sequences", *table(base, kind, large)[0], sep="\n")
            reached[f"{name} {kind} weak"] = rows[1]
    line: dict[str, Any] = {"name": "scaling", "unit": "weak efficiency at 4,096 chips, exchanges apart, on paper"}
    line |= {"ours": reached["1.5B TPU v5 weak"], "peers": {}, "ratio": None, "device": "none", "details": reached}
    line["versions"] = {"jax": jax.__version__, "python": sys.version.split()[0]}
    print(json.dumps(line))


def rehearsed(name: str, machine: str, changes: dict[str, Any], *, cache: Path) -> Base:
    """The rehearsal of a configuration, as `main.py --rehearse` makes it."""
    values = json.loads((ROOT / "configs" / f"{name}.json").read_text()) | changes
    model = MODELS["GPT2"]

    def section(kind: Any) -> Any:
        return kind(**{key: values[key] for key in kind.model_fields if key in values})

    topology = topologies.find(machine)
    settings = section(model.Config), section(optimizers.OptimizerConfig)
    params = model.Params(*settings, rehearse.STEPS, None, topology.platform)
    estimator = Estimator(model.model_fn, params, section(RunConfig), devices=topologies.devices(topology))
    plan = estimator.plan(total_steps=rehearse.STEPS, first_step=0)
    measured = rehearse.compiled(estimator, plan, topology, cache)
    moved = {plan.micro_batch: measured.moved / plan.accumulation}
    if other := rehearse.smaller(estimator, plan):
        moved[other[1].micro_batch] = rehearse.compiled(*other, topology, cache).moved / plan.accumulation
    return Base(plan, measured, moved)


def step(base: Base, kind: str, *, devices: int, batch: int) -> roofline.Times:
    """Bounds of a step of `batch` sequences on some devices of a kind."""
    share = batch // devices
    micro = max(n for n in range(1, share + 1) if share % n == 0 and n <= base.plan.micro_batch)
    parts, before = share // micro, base.plan.accumulation
    sizes = base.plan.mesh.shape
    grown = {sizes["data"]: devices // base.fsdp, base.plan.mesh.size: devices, base.fsdp: base.fsdp}
    collectives: Counter[Collective] = Counter()
    for what, count in base.measured.counter().items():
        group = what.group if what.kind == "collective-permute" else grown.get(what.group, what.group)
        if group > 1:
            collectives[what._replace(group=group)] += max(1, count * parts // before)
    known = sorted((base.moved | {0: 0.0}).items())
    moved = parts * float(np.interp(micro, [n for n, _ in known], [moved for _, moved in known]))
    flops = batch * base.plan.spec.tokens_per_example * base.plan.spec.flops_per_token / devices
    return roofline.times(hardware.CHIPS[kind], flops=flops, moved=moved, collectives=collectives)


def table(base: Base, kind: str, points: list[tuple[int, int]]) -> tuple[list[str], float]:
    """Markdown, and the last point's efficiency with exchanges apart. Efficiency: tokens per second and chip against
    the first point's."""
    lines = ["", "| chips | sequences | arithmetic ms | memory ms | links ms | apart | over | tokens/s apart |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    first: tuple[float, float] | None = None
    efficiency = 0.0
    for devices, batch in points:
        times = step(base, kind, devices=devices, batch=batch)
        work = max(times.arithmetic, times.memory)
        rates = (batch / devices / (work + times.links), batch / devices / max(work, times.links))
        first = first or rates
        efficiency = rates[0] / first[0]
        cells = [f"{devices:,}", f"{batch:,}", *(f"{1e3 * seconds:.2f}" for seconds in times)]
        cells += [f"{efficiency:.0%}", f"{rates[1] / first[1]:.0%}"]
        cells.append(f"{rates[0] * devices * base.plan.spec.tokens_per_example:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""], round(efficiency, 3)


if __name__ == "__main__":
    run_program(main)
