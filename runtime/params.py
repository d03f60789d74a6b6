"""One declaration per parameter, from which everything else about it is derived.

A model declares a nested dict of `ParamSpec`. Initialisation, parameter count, table, sharding, optimizer state,
checkpoint template, weight-decay mask and weight-import checks all read the declaration and nothing else.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

LAYER = "layer"


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """A float32 parameter.

    shape: the array's dims; a parameter that every layer has is stacked, with the layers as dim 0.
    axes: the logical name of each dim; `runtime/mesh.py` maps names to mesh axes. A stacked one starts with "layer".
    mean, std: initialised as N(mean, std^2); std 0 is a constant.
    decay: whether weight decay applies to it.
    rows: how many dims (after "layer") are the rows of the matrix it stands for, the rest being its columns;
        0 for vectors. [heads, head_dim, embed] with rows=2 is a (heads * head_dim) x embed matrix.
    used: the part of `shape` that the model means, when the rest is zero padding.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    mean: float = 0.0
    std: float = 0.0
    decay: bool = False
    rows: int = 0
    used: tuple[int, ...] | None = None

    def __post_init__(self):
        assert len(self.shape) == len(self.axes), (self.shape, self.axes)
        assert self.used is None or len(self.used) == len(self.shape), (self.shape, self.used)

    @property
    def stack_dims(self) -> tuple[int, ...]:
        """(0,) when the layers are stacked in dim 0, else ()."""
        return (0,) if self.axes and self.axes[0] == LAYER else ()

    @property
    def row_dims(self) -> tuple[int, ...]:
        first = len(self.stack_dims)
        return tuple(range(first, first + self.rows))

    @property
    def column_dims(self) -> tuple[int, ...]:
        return tuple(range(len(self.stack_dims) + self.rows, len(self.shape)))

    @property
    def used_shape(self) -> tuple[int, ...]:
        return self.used or self.shape

    @property
    def count(self) -> int:
        """Parameters that the model means, padding left out."""
        return math.prod(self.used_shape)


def is_spec(node: object) -> bool:
    return isinstance(node, ParamSpec)


def map_specs(function: Callable[..., Any], specs: Any, *trees: Any) -> Any:
    """`function(spec, *leaves)` over the tree of declarations."""
    return jax.tree.map(function, specs, *trees, is_leaf=is_spec)


def named(specs: Any) -> Iterator[tuple[str, ParamSpec]]:
    """("h/attn/c_attn/w", spec) for each parameter."""
    for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
        yield path_name(path), spec


def path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def count(specs: Any) -> int:
    return sum(spec.count for _, spec in named(specs))


def abstract(specs: Any) -> Any:
    """The shapes and types alone."""
    return map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), specs)


def initialize(specs: Any, key: jax.Array) -> Any:
    """Random parameters. Each draws from its own key, made of its name: adding one changes no other."""

    def draw(path, spec: ParamSpec) -> jax.Array:
        if spec.std == 0:
            value = jnp.full(spec.used_shape, spec.mean, jnp.float32)
        else:
            name = zlib.crc32(path_name(path).encode())
            noise = jax.random.normal(jax.random.fold_in(key, name), spec.used_shape, jnp.float32)
            value = spec.mean + spec.std * noise
        if spec.used is None:
            return value
        return jnp.pad(value, [(0, full - part) for full, part in zip(spec.shape, spec.used, strict=True)])

    return jax.tree_util.tree_map_with_path(draw, specs, is_leaf=is_spec)
