"""Dynamic loss scaling, which keeps float16 gradients between underflow and overflow (Micikevicius et al. 2018)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

INITIAL = 2.0**8  # scales the sum over a batch's tokens, not the mean
SMALLEST, LARGEST = 2.0**-24, 2.0**24
GROWTH_STEPS = 2000  # the scale doubles after this many consecutive finite steps


class LossScale(NamedTuple):
    """Loss-scale state. scale: float32 scalar. finite_steps: int32 scalar, finite steps since the last change."""

    scale: jax.Array
    finite_steps: jax.Array

    @classmethod
    def initial(cls, sharding: Sharding | None = None) -> "LossScale":
        return jax.device_put(cls(jnp.float32(INITIAL), jnp.int32(0)), sharding)

    @classmethod
    def template(cls, sharding: Sharding) -> "LossScale":
        """Shapes, dtypes and sharding for restoring a checkpoint."""
        of = partial(jax.ShapeDtypeStruct, (), sharding=sharding)
        return cls(of(jnp.float32), of(jnp.int32))  # type: ignore[arg-type]

    def after(self, finite: jax.Array) -> "LossScale":
        """Halves the scale after a non-finite gradient; doubles it after `GROWTH_STEPS` finite ones."""
        steps = jnp.where(finite, self.finite_steps + 1, 0)
        factor = jnp.where(finite, jnp.where(steps >= GROWTH_STEPS, 2.0, 1.0), 0.5)
        return LossScale(jnp.clip(self.scale * factor, SMALLEST, LARGEST), jnp.where(factor == 2.0, 0, steps))
