"""Weights under the names of other programs, to and from our parameters.

A `NameMap` says how another program names and stores a parameter; the table of all its entries is derived from the
declarations. `h/attn/c_attn/w`, stacked over layers, is `model/h{i}/attn/c_attn/w` in OpenAI's and ConnorJL's
TensorFlow checkpoints, which store a matrix as [1, inputs, outputs].
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from estimator.errors import UserError
from estimator.parallel.param_spec import ParamSpec, is_spec, named, path_name

Shape = tuple[int, ...]
LISTED = 12  # problems of a file that are listed one by one
# Names of entries that a GPT-2 without them would compute another function than the file's.
INSIDE = re.compile(r"(model/|transformer\.)?(h\d+/|(h|blocks)\.\d+\.|[^./]*(emb|norm|ln_|proj|wte|wpe|pos)[^/]*)")
TABLES = ("vocab", "position")  # names of the rows of the matrices outside layers


class NameMap(NamedTuple):
    """How another program names and stores parameters.

    name: (our name of the parameter, number of the layer or None) -> its name there.
    lead: dims of 1 before a matrix of a layer. transposed: matrices are stored as [outputs, inputs]; tables, which
    have a row for each token or position, never are.
    ignored: whether an entry is no parameter, by its name.
    """

    name: Callable[[str, int | None], str]
    lead: int = 0
    transposed: bool = False
    ignored: Callable[[str], bool] = lambda name: False


def _tensorflow_name(name: str, layer: int | None) -> str:
    return f"model/{name}" if layer is None else f"model/h{layer}/{name.removeprefix('h/')}"


TENSORFLOW = NameMap(_tensorflow_name, lead=1)


def entries(layout: NameMap, name: str, spec: ParamSpec) -> list[str]:
    """The names in the file of one of our parameters: one, or one for each layer."""
    if not spec.stack_dims:
        return [layout.name(name, None)]
    return [layout.name(name, layer) for layer in range(spec.shape[0])]


def stored_shape(layout: NameMap, spec: ParamSpec) -> Shape:
    """The shape of each entry of a parameter: [inputs, outputs] or as the layout has it, and vectors flat."""
    shape = spec.used_shape[len(spec.stack_dims) :]
    if not spec.stack_dims:
        return shape[::-1] if _turned(layout, spec) else shape
    if not spec.rows:
        return (math.prod(shape),)
    matrix = (math.prod(shape[: spec.rows]), math.prod(shape[spec.rows :]))
    return (1,) * layout.lead + (matrix[::-1] if _turned(layout, spec) else matrix)


def _turned(layout: NameMap, spec: ParamSpec) -> bool:
    return layout.transposed and bool(spec.rows) and spec.axes[0] not in TABLES


def check(
    shapes: Mapping[str, Shape], specs: Any, layout: NameMap, *, source: str, resizable: Collection[str] = ()
) -> list[str]:
    """The entries that are no part of the model and can be left out: heads for other tasks, averages, optimizers.

    Raises one UserError that lists all entries that are missing, of another shape than declared, or of a model with
    more parts than ours.
    resizable: parameters of ours that may have any number of rows there.
    """
    problems: list[str] = []
    known: set[str] = set()
    for name, spec in named(specs):
        expected = _bare(stored_shape(layout, spec))
        for entry in entries(layout, name, spec):
            known.add(entry)
            if entry not in shapes:
                problems.append(f"{entry} is missing")
                continue
            found = _bare(shapes[entry])
            free = name in resizable and len(found) == len(expected)
            if found[free:] != expected[free:]:
                problems.append(f"{entry} has shape {list(shapes[entry])}, which does not hold {list(expected)}")
    surplus = [name for name in shapes if name not in known and not layout.ignored(name)]
    # A variable's averages are named after it: model/wte/Momentum.
    inside = {name for name in surplus if INSIDE.match(name) and name.rsplit("/", 1)[0] not in known}
    problems += [f"{name} is not a variable of this model" for name in surplus if name in inside]
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        lines = "\n".join(f"  {problem}" for problem in problems[:LISTED] + more)
        raise UserError(f"{source} does not fit the model:\n{lines}")
    return [name for name in surplus if name not in inside]


def read(arrays: Mapping[str, np.ndarray], name: str, spec: ParamSpec, layout: NameMap) -> np.ndarray:
    """One parameter, float32, as declared but without padding; its rows are as many as there are in the file."""
    if not spec.stack_dims:
        array = np.asarray(arrays[layout.name(name, None)], np.float32)
        return array.T if _turned(layout, spec) else array
    value = np.empty(spec.used_shape, np.float32)
    for layer, part in enumerate(layers(arrays, name, spec, layout)):
        value[layer] = part
    return value


def layers(arrays: Mapping[str, np.ndarray], name: str, spec: ParamSpec, layout: NameMap) -> Iterator[np.ndarray]:
    """A parameter layer by layer, float32; each is read when it is asked for."""
    for entry in entries(layout, name, spec):
        array = np.asarray(arrays[entry], np.float32)
        yield (array.T if _turned(layout, spec) else array).reshape(spec.used_shape[1:])


def padded(value: np.ndarray, spec: ParamSpec) -> np.ndarray:
    """Pads with zeros from `spec.used` to `spec.shape`."""
    missing = [(0, full - part) for full, part in zip(spec.shape, value.shape, strict=True)]
    return np.pad(value, missing) if any(after for _, after in missing) else value


def from_arrays(arrays: Mapping[str, np.ndarray], specs: Any, layout: NameMap, *, source: str) -> Any:
    """Float32 parameters as declared; missing, surplus or mis-shaped entries are errors."""
    check({name: array.shape for name, array in arrays.items()}, specs, layout, source=source)

    def gather(path: Iterable[Any], spec: ParamSpec) -> np.ndarray:
        return padded(read(arrays, path_name(tuple(path)), spec, layout), spec)

    return jax.tree_util.tree_map_with_path(gather, specs, is_leaf=is_spec)


def from_tensorflow(arrays: Mapping[str, np.ndarray], specs: Any, *, source: str = "checkpoint") -> Any:
    """Parameters from TensorFlow variables."""
    return from_arrays(arrays, specs, TENSORFLOW, source=source)


class Entries(Mapping[str, np.ndarray]):
    """Our parameters under the names of a layout, padding removed; views where the parameters are on a CPU.

    params: their tree, or a function that gives one by its name: it is asked for when an entry of it is, and is
    forgotten when one of another parameter is, so that entries in their order need each parameter once.
    """

    def __init__(self, params: Any, specs: Any, layout: NameMap):
        self._get = params if callable(params) else dict(_leaves(params)).__getitem__
        self._layout = layout
        self._where = {
            entry: (name, spec, number)
            for name, spec in named(specs)
            for number, entry in enumerate(entries(layout, name, spec))
        }
        self._held: tuple[str, Any] = ("", None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, entry: str) -> Shape:
        return stored_shape(self._layout, self._where[entry][1])

    def __getitem__(self, entry: str) -> np.ndarray:
        name, spec, number = self._where[entry]
        if self._held[0] != name:
            self._held = ("", None)
            self._held = (name, np.asarray(self._get(name)))
        used = self._held[1][tuple(slice(0, size) for size in spec.used_shape)]
        value = (used[number] if spec.stack_dims else used).reshape(
            stored_shape(self._layout._replace(transposed=False), spec)
        )
        return np.swapaxes(value, -1, -2) if _turned(self._layout, spec) else value


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), leaf


def to_arrays(params: Any, specs: Any, layout: NameMap) -> dict[str, np.ndarray]:
    """All entries of `Entries`."""
    return dict(Entries(params, specs, layout))


def to_tensorflow(params: Any, specs: Any) -> dict[str, np.ndarray]:
    """TensorFlow variables of our parameters, matrices as [1, inputs, outputs]."""
    return to_arrays(params, specs, TENSORFLOW)


def _bare(shape: Shape) -> Shape:
    """Without leading dims of 1 before a matrix."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape
