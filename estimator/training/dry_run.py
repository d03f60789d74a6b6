"""Plans a training run without starting it, for `--dry_run`: memory, work per step, parameters."""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax

from estimator.parallel import hardware, param_spec
from estimator.parallel.mesh import batch_shards
from estimator.quantities import numbered, size


class TrainingPlan(NamedTuple):
    """A planned training run. spec: an EstimatorSpec. state: tree of ShapeDtypeStruct with shardings."""

    spec: Any
    state: Any
    mesh: jax.sharding.Mesh
    batch: int
    accumulation: int
    total_steps: int
    first_step: int

    @property
    def micro_batch(self) -> int:
        return self.batch // batch_shards(self.mesh) // self.accumulation

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.spec.tokens_per_example

    @property
    def gradient_bytes(self) -> int:
        """Bytes per device of the gradient and, with gradient accumulation, of its running sum."""
        return (1 + (self.accumulation > 1)) * device_bytes(trained(self.state.params, self.spec.frozen))

    @property
    def update_bytes(self) -> int:
        """Extra bytes that XLA allocates for the optimizer step on CPUs when a call takes several steps (measured with
        Adam); single steps and other devices update in place."""
        is_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return 2 * device_bytes(trained(self.state.params, self.spec.frozen)) if is_cpu else 0

    @property
    def working_bytes(self) -> float:
        """Bytes per device of activations and of the weight copies in the compute dtype."""
        parts = self.mesh.shape["fsdp"] * self.mesh.shape["tensor"]
        return self.micro_batch * self.spec.activation_bytes + self.spec.copy_bytes / parts


def summary(plan: TrainingPlan, *, max_epochs: float | None = None) -> str:
    """One-line-per-fact summary that a run prints when it starts.

    max_epochs: where it may end the run before the planned steps, as the data are unknown.
    """
    device = plan.mesh.devices.flat[0]
    to_go = max(0, plan.total_steps - plan.first_step)
    steps = f"{to_go:,} of {plan.total_steps:,}, {numbered(to_go * plan.tokens_per_step, 'token')}"
    total = param_spec.count(plan.spec.parameters)
    changed = sum(trained_count(name, spec, plan.spec) for name, spec in param_spec.named(plan.spec.parameters))
    lines = [
        f"devices: {plan.mesh.size} x {device.device_kind} ({device.platform})",
        f"parameters: {total:,}" + (f", of which {changed:,} are trained" if changed < total else ""),
        f"batch: {numbered(plan.batch, 'sequence')}, {numbered(plan.tokens_per_step, 'token')}",
        f"on each device: {plan.accumulation} x {numbered(plan.micro_batch, 'sequence')}",
        f"steps to go: at most {steps}; max_epochs {max_epochs:g} may end it earlier"
        if to_go and max_epochs
        else f"steps to go: {steps}",
    ]
    return "\n".join(lines)


def report(
    plan: TrainingPlan,
    *,
    examples_per_epoch: int | None,
    max_epochs: float | None = None,
    known_once: str = "the data are on this machine",
) -> str:
    """The summary, memory per device, work per step and per epoch.

    examples_per_epoch: None if they are unknown. max_epochs: of the run. known_once: when the examples will be known.
    """
    weights, slots = (device_bytes(part) for part in (plan.state.params, plan.state.optimizer))
    gradients, working = plan.gradient_bytes, plan.working_bytes
    device = plan.mesh.devices.flat[0]
    has = f", which has {size(hardware.memory_limit([device]))}" if device.platform != "cpu" else ""
    lines = [
        summary(plan, max_epochs=max_epochs if examples_per_epoch is None else None),
        f"parameters take {size(weights)} on each device, their gradients {size(gradients)}",
        f"optimizer takes {size(slots)}, activations and copies of weights about {size(working)}",
        f"in all about {size(weights + gradients + slots + working)} on each device{has}",
        *([f"with iterations above 1, up to {size(plan.update_bytes)} more on a CPU"] if plan.update_bytes else []),
        "not counted: Python, JAX, compiled programs and batches, a few hundred MB of the machine's memory per process",
        f"FLOPs per step: {plan.tokens_per_step * plan.spec.flops_per_token:.3g}",
    ]
    if examples_per_epoch is not None:
        steps = examples_per_epoch / plan.batch
        lines.append(f"tokens per epoch: {examples_per_epoch * plan.spec.tokens_per_example:,} in {steps:,.1f} steps")
    else:
        lines.append(f"tokens per epoch: known once {known_once}")
    return "\n".join(lines)


def trained_count(name: str, spec: param_spec.ParamSpec, model: Any) -> int:
    """How many numbers of a parameter training changes. model: an EstimatorSpec."""
    if name in model.frozen:
        return 0
    return spec.count * (spec.shape[0] - model.frozen_layers) // spec.shape[0] if spec.stack_dims else spec.count


def trained(values: Any, frozen: Collection[str]) -> list[Any]:
    """Leaves of a parameter tree that are not frozen."""
    leaves = jax.tree_util.tree_leaves_with_path(values)
    return [leaf for path, leaf in leaves if param_spec.path_name(path) not in frozen]


def held_bytes(spec: Any) -> float:
    """Bytes of training on a single device, without activations: parameters, gradients and their sum, optimizer
    state (Adam's two moments if the spec has no optimizer), weight copies."""
    weights = param_spec.abstract(spec.parameters)
    changed = _bytes(trained(weights, spec.frozen))
    slots = _bytes(jax.eval_shape(spec.optimizer.transform.init, weights)) if spec.optimizer else 2 * changed
    return _bytes(weights) + 2 * changed + slots + spec.copy_bytes


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(tree: Any) -> int:
    """Bytes of a tree of ShapeDtypeStruct on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def parameter_table(model: Any) -> str:
    """One line per parameter: name, shape, logical axes, initial distribution, weight decay, whether it is trained (if
    not all are), count. model: an EstimatorSpec."""
    begun = model.initial.names() if model.initial else ()
    rows: list[tuple[str, ...]] = [("parameter", "shape", "axes", "initial", "decay", "trained", "count")]
    for name, spec in param_spec.named(model.parameters):
        drawn = f"N({spec.mean:g}, {spec.std:.3g}^2)" if spec.std else f"{spec.mean:g}"
        initial = "init_from" if name in begun else drawn
        shape = " x ".join(map(str, spec.used_shape))
        changed = trained_count(name, spec, model)
        share = f"last {spec.shape[0] - model.frozen_layers} of {spec.shape[0]}" if changed < spec.count else "yes"
        decay = "yes" if spec.decay and changed else ""
        rows.append((name, shape, " ".join(spec.axes), initial, decay, share if changed else "no", f"{spec.count:,}"))
    if all(row[5] == "yes" for row in rows[1:]):
        rows = [(*row[:5], row[6]) for row in rows]
    rows.append(("total", *[""] * (len(rows[0]) - 2), f"{param_spec.count(model.parameters):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        lines.append("  ".join([*cells, row[-1].rjust(widths[-1])]).rstrip())
    return "\n".join(lines)
