"""Partial fine-tuning: frozen blocks, learning-rate factors, low-rank adapters.

Each parameter has a rate that multiplies its updates. Rate 0 means no gradient, update, weight decay or optimizer
state. LoRA adapters (Hu et al. 2021) are two thin matrices per matrix of the blocks; their product is added to that
matrix, and the model computes with the sum.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from estimator.config import ConfigError, Section
from estimator.errors import UserError
from estimator.parallel.param_spec import LAYER, ParamSpec, is_spec, named, path_name
from estimator.training.train_step import Optimizer
from models.gpt2 import flops, model

LORA = "lora"


class FineTuneConfig(Section):
    """Tuning."""

    train_only: Literal["transformer"] | None = Field(
        None, description="transformer: train the blocks, freeze embeddings and the final norm; null: train everything"
    )
    freeze_layers: int = Field(0, ge=0, description="number of first blocks to freeze")
    lr_scale: dict[str, float] = Field(
        {},
        description='learning-rate factors by prefix of the parameter name: {"wte": 0.1, "h/attn": 0.5}',
    )
    lora_rank: int | None = Field(
        None,
        gt=0,
        description="train only LoRA adapters of this rank, one per matrix of the blocks; null: no adapters, and "
        "lora_alpha left out too",
    )
    lora_alpha: float | None = Field(
        None, gt=0, description="factor on the adapters is lora_alpha / lora_rank; null: 2 lora_rank"
    )

    def conflicts(self) -> Iterator[ConfigError]:
        if self.lora_rank and (self.train_only or self.freeze_layers or self.lr_scale):
            yield ConfigError("lora_rank", "trains adapters alone; leave out train_only, freeze_layers and lr_scale")
        if self.lora_alpha and not self.lora_rank:
            yield ConfigError("lora_alpha", "is for adapters; write lora_rank, or leave it out (null)")
        if any(scale < 0 for scale in self.lr_scale.values()):
            yield ConfigError("lr_scale", "a factor is negative; 0 freezes parameters")


def parameters(config: Any) -> dict[str, Any]:
    """Declares the parameters of the model and its adapters."""
    specs = model.parameters(config)
    if not config.lora_rank:
        return specs
    rank = ("rank", config.lora_rank)
    adapters: dict[str, Any] = {}
    for name, spec in named(specs["h"]):
        if spec.rows:
            rows, columns = (
                [(spec.axes[dim], spec.shape[dim]) for dim in dims] for dims in (spec.row_dims, spec.column_dims)
            )
            # Standard deviation of PyTorch's initialization of linear layers, uniform up to 1/sqrt(inputs).
            std = 1 / math.sqrt(3 * math.prod(size for _, size in rows))
            adapters[str(adapter_of(f"h/{name}"))] = {
                "a": _adapter(config.n_layer, [*rows, rank], rows=len(rows), std=std),
                "b": _adapter(config.n_layer, [rank, *columns], rows=1, std=0.0),
            }
    return {**specs, LORA: adapters}


def _adapter(layers: int, dims: list[tuple[str, int]], *, rows: int, std: float) -> ParamSpec:
    names, sizes = zip(*dims, strict=True)
    return ParamSpec(shape=(layers, *sizes), axes=(LAYER, *names), std=std, decay=True, rows=rows)


def merged(params: dict[str, Any], config: Any) -> dict[str, Any]:
    """Adds the adapters' products to the model's parameters; without adapters returns them unchanged."""
    if not config.lora_rank:
        return params

    def add(path: Any, leaf: jax.Array) -> jax.Array:
        adapter = adapter_of(f"h/{path_name(path)}")
        return with_adapter(leaf, params[LORA][adapter], config) if adapter else leaf

    base = {name: part for name, part in params.items() if name != LORA}
    return {**base, "h": jax.tree_util.tree_map_with_path(add, base["h"])}


def adapter_of(name: str) -> str | None:
    """Name of a parameter's adapter; None if it is not a matrix of the blocks."""
    if not (name.startswith("h/") and name.endswith("/w")):
        return None
    return name.removeprefix("h/").removesuffix("/w").replace("/", "_")


def alpha(rank: int, given: float | None) -> float:
    """lora_alpha, where null stands for 2 lora_rank."""
    return given or 2 * rank


def with_adapter(weight: jax.Array, pair: dict[str, jax.Array], config: Any) -> jax.Array:
    """Adds the adapter's product to all layers of a matrix."""
    scale = alpha(config.lora_rank, config.lora_alpha) / config.lora_rank
    a = pair["a"].reshape(weight.shape[0], -1, config.lora_rank)
    b = pair["b"].reshape(weight.shape[0], config.lora_rank, -1)
    return weight + scale * (a @ b).reshape(weight.shape)


def rates(specs: Any, config: Any) -> dict[str, float | np.ndarray]:
    """Update factor of each parameter by name: a number, or one per layer [L, 1, ...]."""
    for prefix in config.lr_scale:
        if not any(_begins(name, prefix) for name, _ in named(specs)):
            names = ", ".join(name for name, _ in named(specs))
            raise UserError(f"lr_scale: no parameter begins with {prefix}; available: {names}")
    if config.freeze_layers > config.n_layer:
        raise UserError(f"freeze_layers: {config.freeze_layers} is more than the {config.n_layer} blocks there are")

    def rate(name: str, spec: ParamSpec) -> float | np.ndarray:
        if config.lora_rank:
            return float(name.startswith(f"{LORA}/"))
        if config.train_only and not spec.stack_dims:
            return 0.0
        fitting = [prefix for prefix in config.lr_scale if _begins(name, prefix)]
        value = config.lr_scale[max(fitting, key=len)] if fitting else 1.0
        if not config.freeze_layers or not spec.stack_dims:
            return value
        if config.freeze_layers == config.n_layer:
            return 0.0
        layers = np.where(np.arange(spec.shape[0]) < config.freeze_layers, 0, value).astype(np.float32)
        return layers.reshape(-1, *[1] * (len(spec.shape) - 1))

    return {name: rate(name, spec) for name, spec in named(specs)}


def frozen(specs: Any, config: Any) -> set[str]:
    """Names of the frozen parameters."""
    return {name for name, factor in rates(specs, config).items() if not np.any(factor)}


def copy_bytes(config: Any) -> int:
    """Estimated bytes per step of compute-dtype or adapter-merged copies of the blocks' matrices and their
    gradients."""
    copied = config.lora_rank or config.precision != "float32"
    return 2 * flops.block_parameters(config) * model.compute_dtype(config).dtype.itemsize if copied else 0


def loss(function: Callable[..., Any], specs: Any, config: Any) -> Callable[..., Any]:
    """Loss as a function of all parameters; merges adapters and stops gradients of frozen parameters."""
    factors = rates(specs, config)
    if all(np.all(factor != 0) for factor in factors.values()) and not config.lora_rank:
        return function

    def frozen(path: Any, leaf: jax.Array) -> jax.Array:
        factor = factors[path_name(path)]
        if not isinstance(factor, np.ndarray):
            return leaf if factor else jax.lax.stop_gradient(leaf)
        return jnp.where(factor != 0, leaf, jax.lax.stop_gradient(leaf))

    def tuned(params: Any, *arguments: Any, **options: Any) -> Any:
        params = jax.tree_util.tree_map_with_path(frozen, params)
        return function(merged(params, config), *arguments, **options)

    return tuned


def optimizer(make: Callable[[Any], Optimizer], specs: Any, config: Any) -> Optimizer:
    """Optimizer from `make` for the trained parameters, scaled by their rates; frozen ones are not updated."""
    factors = rates(specs, config)
    if all(not isinstance(factor, np.ndarray) and factor == 1 for factor in factors.values()):
        return make(specs)
    trained = {name for name, factor in factors.items() if np.any(factor)}
    if not trained:
        raise UserError("nothing is trained: every parameter has rate 0; look at train_only, freeze_layers, lr_scale")
    inner = make(_picked(specs, trained))
    return inner._replace(build=lambda schedule: _scaled(inner.build(schedule), trained, factors))


def _scaled(
    inner: optax.GradientTransformation, trained: set[str], factors: dict[str, float | np.ndarray]
) -> optax.GradientTransformation:
    """A transformation of the trained parameters for all of them, with updates multiplied by their rates."""

    def init(params: Any) -> Any:
        return inner.init(_picked(params, trained))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        steps, state = inner.update(_picked(updates, trained), state, _picked(params, trained))
        taken = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(steps)}

        def step(path: Any, gradient: jax.Array) -> jax.Array:
            name = path_name(path)
            return taken[name] * factors[name] if name in taken else jnp.zeros_like(gradient)

        return jax.tree_util.tree_map_with_path(step, updates), state

    return optax.GradientTransformation(init, update)


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix.rstrip('/')}/")


def _picked(tree: Any, names: set[str], at: str = "") -> Any:
    """Selects these parameters from a nested dict."""
    if is_spec(tree) or not isinstance(tree, dict):
        return tree
    parts = {key: (value, f"{at}/{key}".lstrip("/")) for key, value in tree.items()}
    return {
        key: _picked(value, names, path)
        for key, (value, path) in parts.items()
        if any(name == path or name.startswith(f"{path}/") for name in names)
    }
