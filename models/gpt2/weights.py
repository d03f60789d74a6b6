"""Weights under the names that OpenAI's and ConnorJL's TensorFlow checkpoints share, to and from our parameters.

The table is derived from the declarations: `h/attn/c_attn/w`, stacked over layers, is `model/h{i}/attn/c_attn/w`, and
a matrix is stored there as [1, inputs, outputs].
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from runtime.errors import UserError
from runtime.params import ParamSpec, is_spec, named, path_name


def tensorflow_names(name: str, spec: ParamSpec) -> list[str]:
    """The TensorFlow variables of one parameter: one, or one for each layer."""
    if not spec.stack_dims:
        return [f"model/{name}"]
    return [f"model/h{i}/{name.removeprefix('h/')}" for i in range(spec.shape[0])]


def from_tensorflow(arrays: Mapping[str, np.ndarray], specs: Any, *, source: str = "checkpoint") -> Any:
    """Float32 parameters as declared, from TensorFlow variables; missing, surplus or mis-shaped ones are errors."""
    problems: list[str] = []
    known: set[str] = set()

    def gather(path, spec: ParamSpec) -> np.ndarray:
        names = tensorflow_names(path_name(path), spec)
        known.update(names)
        layers = []
        shape = spec.used_shape[len(spec.stack_dims) :]
        for name in names:
            array = arrays.get(name)
            if array is None:
                problems.append(f"{name} is missing")
            elif array.size != np.prod(shape):
                problems.append(f"{name} has shape {list(array.shape)}, which does not hold {list(shape)}")
            else:
                layers.append(np.asarray(array, np.float32).reshape(shape))
        if len(layers) != len(names):
            return np.zeros(spec.shape, np.float32)
        value = np.stack(layers) if spec.stack_dims else layers[0]
        return np.pad(value, [(0, full - part) for full, part in zip(spec.shape, spec.used_shape, strict=True)])

    params = jax.tree_util.tree_map_with_path(gather, specs, is_leaf=is_spec)
    problems += [f"{name} is not a variable of this model" for name in arrays if name not in known]
    if problems:
        raise UserError(f"{source} does not fit the model:\n" + "\n".join(f"  {problem}" for problem in problems))
    return params


def to_tensorflow(params: Any, specs: Any) -> dict[str, np.ndarray]:
    """TensorFlow variables of our parameters, matrices as [1, inputs, outputs]."""
    arrays = {}
    leaves = jax.tree.leaves(params)
    for (name, spec), leaf in zip(named(specs), leaves, strict=True):
        used = np.asarray(leaf)[tuple(slice(0, size) for size in spec.used_shape)]
        for tf_name, value in zip(tensorflow_names(name, spec), used if spec.stack_dims else [used], strict=True):
            shape = spec.used_shape[len(spec.stack_dims) :]
            inputs = int(np.prod(shape[: spec.rows]))
            if not spec.stack_dims:
                arrays[tf_name] = value
            else:
                arrays[tf_name] = value.reshape((1, inputs, -1) if spec.rows else (-1,))
    return arrays
