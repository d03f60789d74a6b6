"""Declares each parameter once.

A model declares a nested dict of `ParamSpec`, from which initialization, parameter count, table, sharding, optimizer
state, checkpoint template, weight-decay mask and weight-import checks are derived.
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

    shape: dims of the array; parameters of all layers are stacked, with the layer as dim 0.
    axes: logical name of each dim, which `mesh.py` maps to mesh axes; "layer" first if stacked.
    mean, std: initialized from N(mean, std^2); std 0 is constant.
    decay: whether weight decay applies to it.
    rows: number of dims (after "layer") that form the matrix's rows, the rest are its columns; 0 for
        vectors. [heads, head_dim, embed] with rows=2 is a (heads * head_dim) x embed matrix.
    used: `shape` without zero padding.
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
        """Number of parameters without padding."""
        return math.prod(self.used_shape)


def is_spec(node: object) -> bool:
    return isinstance(node, ParamSpec)


def map_specs(function: Callable[..., Any], specs: Any, *trees: Any) -> Any:
    """Maps `function(spec, *leaves)` over the tree of declarations."""
    return jax.tree.map(function, specs, *trees, is_leaf=is_spec)


def named(specs: Any) -> Iterator[tuple[str, ParamSpec]]:
    """Yields ("h/attn/c_attn/w", spec) for each parameter."""
    for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
        yield path_name(path), spec


def path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def count(specs: Any) -> int:
    return sum(spec.count for _, spec in named(specs))


def abstract(specs: Any) -> Any:
    """Shapes and dtypes of the parameters."""
    return map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), specs)


def initialize(specs: Any, key: jax.Array) -> Any:
    """Initializes parameters. Each key is derived from the name, so adding a parameter changes no other."""

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
