"""The interface between optimizers and the training step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


class Optimizer(NamedTuple):
    """An optimizer for the training step.

    build: schedule -> optax transformation; `update` returns the change of the parameters and does not clip.
    learning_rate: step -> learning rate; the first step is 0.
    grad_clip: largest global gradient norm, or None. The training step clips, because it has the norm.
    peak: highest learning rate of the schedule, which a running job can change; None if it cannot.
    """

    build: Callable[[Schedule], optax.GradientTransformation]
    learning_rate: Schedule
    grad_clip: float | None
    peak: float | None = None

    @property
    def transform(self) -> optax.GradientTransformation:
        """The transformation with this schedule."""
        return self.build(self.learning_rate)

    def scaled(self, factor: jax.Array) -> "Optimizer":
        """The optimizer with all its learning rates multiplied by `factor`."""
        return self._replace(learning_rate=lambda step: self.learning_rate(step) * factor)

    def clip(self, gradients: Any, *, norm: jax.Array) -> Any:
        """Scales gradients down to global norm `grad_clip` if `norm` exceeds it."""
        if self.grad_clip is None:
            return gradients
        scale = jnp.minimum(1.0, self.grad_clip / norm)
        return jax.tree.map(lambda gradient: gradient * scale, gradients)
