"""What a JSON file would do, before it does it: `--dry_run`."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from runtime import params


class TrainingPlan(NamedTuple):
    """Everything `report` says. Bytes are those of one device."""

    values: dict[str, Any]
    specs: Any
    state: Any  # tree of ShapeDtypeStruct with shardings: step, params, optimizer
    devices: Sequence[jax.Device]
    batch: int
    micro_batch: int
    accumulation: int
    tokens_per_example: int
    activation_bytes: float
    flops_per_token: float
    total_steps: int
    first_step: int
    examples_per_epoch: int | None
    choices: Sequence[str]
    warnings: Sequence[str]


def report(plan: TrainingPlan) -> str:
    """The resolved file, the parameters, memory per device, work per step and per epoch, warnings."""
    tokens = plan.batch * plan.tokens_per_example
    weights, slots = (device_bytes(part) for part in (plan.state.params, plan.state.optimizer))
    activations = plan.micro_batch * plan.activation_bytes
    device = plan.devices[0]
    lines = [
        json.dumps(plan.values, indent=2),
        "",
        params.table(plan.specs),
        "",
        f"devices             {len(plan.devices)} x {device.device_kind} ({device.platform})",
        f"parameters          {size(weights)} on each device, and as much for the gradients",
        f"optimizer           {size(slots)}",
        f"activations         about {size(activations)}",
        f"in all              about {size(2 * weights + slots + activations)} on each device",
        f"sequences per step  {plan.batch}: {plan.accumulation} x {plan.micro_batch} on each device",
        f"tokens per step     {tokens:,}",
        f"FLOPs per step      {tokens * plan.flops_per_token:.3g}",
    ]
    if plan.examples_per_epoch is None:
        lines.append("tokens per epoch    unknown: the data are not here, or not prepared yet")
    else:
        epoch = plan.examples_per_epoch * plan.tokens_per_example
        steps = plan.examples_per_epoch / plan.batch
        lines.append(f"tokens per epoch    {epoch:,} in {steps:,.1f} steps")
    left = plan.total_steps - plan.first_step
    lines.append(
        f"steps to go         {left:,} of {plan.total_steps:,}: {left * tokens:,} tokens"
        + (f", {left * plan.batch / plan.examples_per_epoch:.2f} epochs" if plan.examples_per_epoch else "")
    )
    lines += plan.choices
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def device_bytes(tree: Any) -> int:
    """Bytes of a tree of ShapeDtypeStruct on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size(n_bytes: float) -> str:
    """12.3 GB; powers of ten."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} GB" if n_bytes < 1000 else f"{n_bytes:,.0f} GB"
