"""Bad steps: a loss or gradient that is not finite, or far above the median of the recent ones.

The compiled step decides, without waiting for the host, and leaves parameters and optimizer state unchanged. The host
learns of it later from the metrics, logs the batch, and follows `on_bad_step`: skip, stop, or roll back.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

WINDOW = 64  # accepted steps whose median is the yardstick
SETTLING_STEPS = 16  # accepted steps before which nothing is an outlier


class OutlierBounds(NamedTuple):
    """loss: nats above the median of recent losses. grad_norm: multiple of the median gradient norm. None: no bound."""

    loss: float | None
    grad_norm: float | None


class RecentSteps(NamedTuple):
    """Losses and gradient norms of the newest accepted steps: float32 [WINDOW], NaN where there are fewer."""

    losses: jax.Array
    grad_norms: jax.Array

    @classmethod
    def initial(cls, sharding: Sharding | None = None) -> "RecentSteps":
        # Two arrays, as both are donated. Not by device_put: it compares the values of several processes, NaN included.
        empty = jax.jit(lambda: jnp.full(WINDOW, jnp.nan, jnp.float32), out_shardings=sharding)
        return cls(empty(), empty())

    @classmethod
    def template(cls, sharding: Sharding) -> "RecentSteps":
        """Shapes, dtypes and sharding for restoring a checkpoint."""
        of = partial(jax.ShapeDtypeStruct, (WINDOW,), jnp.float32, sharding=sharding)
        return cls(of(), of())  # type: ignore[arg-type]

    def is_outlier(self, bounds: OutlierBounds, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
        """Whether a step is above one of the bounds; never before SETTLING_STEPS accepted steps."""
        is_high = jnp.bool_(False)
        if bounds.loss is not None:
            is_high |= loss > jnp.nanmedian(self.losses) + bounds.loss
        if bounds.grad_norm is not None:
            is_high |= grad_norm > jnp.nanmedian(self.grad_norms) * bounds.grad_norm
        return is_high & (jnp.isfinite(self.losses).sum() >= SETTLING_STEPS)

    def after(self, loss: jax.Array, grad_norm: jax.Array, *, accepted: jax.Array) -> "RecentSteps":
        """Replaces the oldest step by this one, if it was accepted."""

        def pushed(values: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(accepted, jnp.concatenate([values[1:], new[None].astype(jnp.float32)]), values)

        return RecentSteps(pushed(self.losses, loss), pushed(self.grad_norms, grad_norm))


class BadStep(NamedTuple):
    """A step whose update was left out.

    step: counted from 1. windows: numbers of its batch's windows, if known. seconds: since the last train record.
    """

    step: int
    reason: str
    loss: float
    grad_norm: float
    windows: range | None
    seconds: float = 0.0

    def record(self, event: str) -> dict[str, Any]:
        """Its fields of a metrics.jsonl record, without step, tokens and time."""
        values = {"event": event, "bad_step": self.step, "reason": self.reason}
        values |= {"loss": self.loss, "grad_norm": self.grad_norm}
        if self.windows is not None:
            values |= {"first_window": self.windows.start, "last_window": self.windows.stop - 1}
        return values

    def __str__(self) -> str:
        text = f"step {self.step}: {self.reason} (loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g})"
        if self.windows is None:
            return text
        return f"{text}; to see its batch: --show_batch {self.windows.start}:{self.windows.stop}"


class RollBackError(Exception):
    """Training has to return to the newest checkpoint and continue with the data after a bad step's batch."""

    def __init__(self, bad: BadStep):
        super().__init__(str(bad))
        self.bad = bad


def reason(*, loss: float, grad_norm: float, finite: bool, bounds: OutlierBounds) -> str:
    """Says why a step was not accepted."""
    if not finite:
        return "the loss is not finite" if loss != loss or abs(loss) == float("inf") else "the gradient is not finite"
    limits = [f"{name} {bound:g}" for name, bound in zip(("max_loss_jump", "max_grad_norm_jump"), bounds, strict=True)
              if bound is not None]  # fmt: skip
    return f"the loss or the gradient norm is an outlier ({', '.join(limits)})"
