"""Averages of the optimizer in ConnorJL's checkpoints, into our optimizer's state: an old run continues where it was.

TensorFlow calls the averages of a variable by the optimizer's name, numbered in the order in which it made them:
Adam's are `<variable>/AdamW` (of gradients) and `<variable>/AdamW_1` (of their squares). Adafactor's begin with the
momentum if there is one; then come the means of the squares over the columns and over the rows of a matrix, or one
average for a vector. Without weight decay the names lack the W.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from estimator.errors import UserError
from estimator.parallel.param_spec import ParamSpec, named, path_name
from models.gpt2.convert.name_maps import TENSORFLOW, entries

NAMES = {"adam": ("Adam", "AdamW"), "adafactor": ("Adafactor", "AdafactorW")}
SLOT = re.compile(r"/(Adam|AdamW|Adafactor|AdafactorW)(_\d+)?$")
FIELDS = ("mu", "nu", "ema", "rows", "columns")  # of our optimizers' states


def optimizer_of(names: Any) -> str | None:
    """Which optimizer the averages in a checkpoint are of, or None."""
    found = {match[1] for name in names if (match := SLOT.search(name))}
    return next((ours for ours, theirs in NAMES.items() if found & set(theirs)), None)


def read(arrays: Mapping[str, np.ndarray], specs: Any, state: Any, *, step: int, source: str) -> Any:
    """The optimizer's state with the averages of a checkpoint, at the same places, and all its counts at `step`.

    state: of a new run. Raises UserError where an average is missing, or has another shape.
    """
    declared = dict(named(specs))
    kind = {match[1] for name in arrays if (match := SLOT.search(name))}
    if len(kind) != 1:
        raise UserError(f"{source} has averages of {len(kind)} optimizers ({', '.join(sorted(kind))}), not of one")
    name = kind.pop()
    there = name.startswith("Adafactor") and any(entry.endswith(f"/{name}_2") for entry in arrays)
    here = any("/ema/" in path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state))
    if there != here and name.startswith("Adafactor"):
        fix = "the beta1 of that run, as 0.9" if there else "beta1 0, or leave it out"
        raise UserError(f"{source} was trained {'with' if there else 'without'} Adafactor's momentum; write {fix}")
    first = int(there)
    numbers = {"mu": 0, "nu": 1, "ema": 0, "rows": first, "columns": first + 1}

    def fill(path: Any, leaf: Any) -> Any:
        parts = path_name(path).split("/")
        field = next((part for part in parts if part in FIELDS), None)
        if field is None:
            if not np.issubdtype(leaf.dtype, np.integer):
                raise UserError(f"{source} has no averages of this optimizer; set init_state to weights")
            return jax.device_put(np.asarray(step, leaf.dtype), leaf.sharding)
        parameter = "/".join(parts[parts.index(field) + 1 :])
        spec, number = declared[parameter], numbers[field]
        whole = field == "columns" and not spec.rows  # a vector has one average; its "columns" are the mean of it
        suffix = f"/{name}" + (f"_{number - whole}" if number - whole else "")
        value = _gather(
            lambda entry: _entry(arrays, entry + suffix, source),
            parameter,
            spec,
            shape=spec.used_shape if whole else _part(leaf.shape, spec),
            source=source,
        )
        if whole:
            value = value.mean(tuple(range(len(spec.stack_dims), value.ndim)), keepdims=True)
        missing = [(0, full - part) for full, part in zip(leaf.shape, value.shape, strict=True)]
        return jax.device_put(np.pad(value, missing), leaf.sharding)

    return jax.tree_util.tree_map_with_path(fill, state)


def _part(shape: tuple[int, ...], spec: ParamSpec) -> tuple[int, ...]:
    """The dims of an average without padding; it has 1 where it was averaged over."""
    return tuple(1 if size == 1 else used for size, used in zip(shape, spec.used_shape, strict=True))


def _entry(arrays: Mapping[str, np.ndarray], name: str, source: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{source}: {name} is missing, an average of the optimizer; set init_state to weights")
    return arrays[name]


def _gather(
    get: Callable[[str], np.ndarray], parameter: str, spec: ParamSpec, *, shape: tuple[int, ...], source: str
) -> np.ndarray:
    """The averages of all layers of a parameter, float32 and in this shape."""
    inner = shape[len(spec.stack_dims) :]
    value = np.empty(shape, np.float32)
    for layer, entry in enumerate(entries(TENSORFLOW, parameter, spec)):
        array = np.asarray(get(entry))
        if array.size != math.prod(inner):
            raise UserError(
                f"{source}: the averages of {entry} have shape {list(array.shape)}, which does not hold {list(inner)}; "
                "set init_state to weights"
            )
        value[layer if spec.stack_dims else ...] = array.reshape(inner)
    return value
