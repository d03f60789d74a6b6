"""The weights that generation reads: layer by layer, in the type or in the order of its products.

Parameters are converted one at a time, the matrices of stacked layers one layer at a time, and each can be freed once
it is converted: no more than one is in memory twice.
"""

from functools import partial
from typing import Any

import jax

from estimator.parallel.param_spec import ParamSpec, is_spec, path_name
from models.gpt2 import model
from models.gpt2.config import GPT2Config
from models.gpt2.decode.quantized import Storage, quantize_matrix

TABLES = ("wte", "lm_head")


def convert(leaves: dict[str, Any], *, config: GPT2Config, storage: Storage | None) -> dict[str, Any]:
    """The weights of the parameters `leaves`, by name, which are taken out of it.

    storage: what quantized.py stores the matrices in; None leaves them in the dtype of matrix products.
    """
    specs = model.parameters(config)
    stored = partial(_stored, storage=storage, dtype=model.compute_dtype(config))

    def whole(path: Any, spec: ParamSpec) -> Any:
        name = path_name(path)
        rows = spec.rows if name != "wpe" else 0  # positions are added, not multiplied
        return stored(leaves.pop(name), rows=rows, is_table=name in TABLES)

    def in_layers(path: Any, spec: ParamSpec) -> list[Any]:
        stack = leaves.pop(f"h/{path_name(path)}")
        return [stored(stack, layer, rows=spec.rows) for layer in range(config.n_layer)]

    stacked = jax.tree_util.tree_map_with_path(in_layers, specs.pop("h"), is_leaf=is_spec)
    around = jax.tree_util.tree_map_with_path(whole, specs, is_leaf=is_spec)
    return {**around, "h": [_layer(stacked, i) for i in range(config.n_layer)]}


@partial(jax.jit, static_argnames=("rows", "storage", "dtype", "is_table"))
def _stored(
    array: jax.Array,
    layer: int | None = None,
    *,
    rows: int,
    storage: Storage | None,
    dtype: Any,
    is_table: bool = False,
) -> Any:
    """A parameter, or one layer of a stack, as generation reads it. rows: 0 leaves it as it is."""
    if layer is not None:
        array = jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)
    if not rows:
        return array
    return quantize_matrix(array, rows=rows, storage=storage, is_table=is_table) if storage else array.astype(dtype)


def _layer(stacked: dict[str, Any], i: int) -> dict[str, Any]:
    return jax.tree.map(lambda layers: layers[i], stacked, is_leaf=lambda node: isinstance(node, list))
