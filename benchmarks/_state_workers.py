"""Training states of a size, without a model around them: what checkpoints and optimizers are measured with.

ours: parameters as declared and an optimizer of ours or of optax. pytorch: as many numbers with its fused AdamW.
"""

import json
import os
import sys
import time
from functools import partial
from typing import Any

from benchmarks import _sizes, _workers
from benchmarks._sizes import SIZES

RECIPES: dict[str, dict[str, Any]] = {  # keys of our JSON file
    "adam": {"opt_name": "adam"},
    "adafactor": {"opt_name": "adafactor", "lr": 0.01, "weight_decay": None},
    "sgd": {"opt_name": "sgd"},
    "muon": {"opt_name": "muon"},
}


class Side:
    def memory(self) -> int:
        """The largest resident memory of this process, in bytes."""
        return _workers.peak_resident()


class Ours(Side):
    """options: size."""

    def __init__(self, size: str):
        from models import gpt2 as model
        from models.gpt2 import model as gpt2

        self.size = SIZES[size]
        keys = _sizes.values(self.size, n_ctx=1024, batch=1)
        config = model.Config(**{key: value for key, value in keys.items() if key in model.Config.model_fields})
        self.specs = gpt2.parameters(config)
        self.state: Any = None
        self.gradient: Any = None
        self.program: Any = None

    def describe(self) -> dict[str, Any]:
        import jax

        return {"platform": jax.devices()[0].platform, "kind": jax.devices()[0].device_kind}

    def variants(self) -> list[str]:
        return [*RECIPES, "optax.adamw", "optax.muon"]

    def prepare(self, variant: str) -> float:
        """Compiles one update, clipped by the global norm; returns seconds."""
        import jax
        import jax.numpy as jnp
        import optax

        from estimator.parallel import param_spec

        self.state = self.gradient = self.program = None
        start = time.perf_counter()
        transform, clip = self._optimizer(variant)
        weights = jax.jit(partial(param_spec.initialize, self.specs))(jax.random.key(0))
        self.gradient = jax.jit(partial(jax.tree.map, lambda leaf: leaf * 0.01 + 1e-4))(weights)
        self.state = (weights, jax.jit(transform.init)(weights))

        def update(state: Any, gradient: Any) -> Any:
            weights, slots = state
            norm = optax.tree.norm(gradient)
            changes, slots = transform.update(clip(gradient, norm), slots, weights)
            return optax.apply_updates(weights, changes), slots

        self.program = jax.jit(update, donate_argnums=0)
        self.updates(1)
        self.count = sum(leaf.size for leaf in jax.tree.leaves(self.state) if leaf.dtype == jnp.float32)
        return time.perf_counter() - start

    def _optimizer(self, variant: str) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp
        import optax

        import optimizers
        from estimator.parallel.param_spec import map_specs

        if variant in RECIPES:
            keys: dict[str, Any] = {"lr": 3e-4, "beta2": 0.95, "weight_decay": 0.1, "grad_clip": 1.0} | RECIPES[variant]
            made = optimizers.make(optimizers.OptimizerConfig(**keys), self.specs, total_steps=1000)
            return made.transform, lambda gradient, norm: made.clip(gradient, norm=norm)

        def clip(gradient: Any, norm: jax.Array) -> Any:
            return jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, 1.0 / norm), gradient)

        decayed = map_specs(lambda spec: spec.decay, self.specs)
        if variant == "optax.adamw":
            return optax.adamw(3e-4, b2=0.95, weight_decay=0.1, mask=decayed), clip
        from optax.contrib import MuonDimensionNumbers, muon

        from estimator.training.optim.muon import is_hidden_matrix

        def dims(spec: Any) -> Any:
            return MuonDimensionNumbers(spec.row_dims, spec.column_dims) if is_hidden_matrix(spec) else None

        return muon(
            3e-4, weight_decay=0.1, weight_decay_mask=decayed, muon_weight_dimension_numbers=map_specs(dims, self.specs)
        ), clip

    def updates(self, count: int) -> float:
        """Seconds of one update."""
        import jax

        start = time.perf_counter()
        for _ in range(count):
            self.state = self.program(self.state, self.gradient)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - start) / count


class Torch(Side):
    """As many numbers in as many tensors."""

    def __init__(self, size: str):
        self.size = SIZES[size]

    def variants(self) -> list[str]:
        return ["torch.AdamW fused"]

    def prepare(self, variant: str) -> float:
        import torch

        from benchmarks._peer_gpt2 import GPT2, adamw

        start = time.perf_counter()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = GPT2(self.size, 1024).to(device)
        self.optimizer = adamw(self.model)
        for value in self.model.parameters():
            value.grad = torch.full_like(value, 1e-4)
        self.updates(1)
        return time.perf_counter() - start

    def updates(self, count: int) -> float:
        import torch

        start = time.perf_counter()
        for _ in range(count):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    def save(self, path: str) -> dict[str, float]:
        """torch.save of model and optimizer, and until the disk has it."""
        import torch

        start = time.perf_counter()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
        called = time.perf_counter() - start
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        return {"call": called, "durable": time.perf_counter() - start}


SIDES = {"ours": Ours, "pytorch": Torch}

if __name__ == "__main__":
    _workers.serve(SIDES[sys.argv[1]](**json.loads(sys.argv[2])))
