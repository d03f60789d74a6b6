"""The training step: loss, gradient and update, in one compiled function or in two."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from estimator.system import malloc
from estimator.training.bad_steps import OutlierBounds, RecentSteps
from estimator.training.loss_scale import LossScale

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


class TrainState(NamedTuple):
    """Training state. loss_scale: for float16 gradients, else None. recent: with bounds on outliers, else None.

    lr_scale: factor of the schedule's learning rates, a float32 scalar that is not part of checkpoints; None is 1.
    """

    step: jax.Array
    params: Any
    optimizer: Any
    loss_scale: LossScale | None = None
    recent: RecentSteps | None = None
    lr_scale: jax.Array | None = None

    def parts(self) -> dict[str, Any]:
        """The parts of a checkpoint by name."""
        return {name: part for name, part in self._replace(lr_scale=None)._asdict().items() if part is not None}


NO_BOUNDS = OutlierBounds(None, None)


class Gradient(NamedTuple):
    """A step's gradient of the mean loss, its norm, the loss sum and the sum of the weights."""

    values: Any
    norm: jax.Array
    total: jax.Array
    weight: jax.Array


def gradient_step(loss: Callable[..., tuple[jax.Array, jax.Array]], *, accumulation: int, seed: int):
    """Returns the first half of `fused_step.train_step`: (state, batch) -> Gradient. Does not read optimizer state."""

    def part(values: Any, batch: Any, key: jax.Array, scale: jax.Array | None):
        """Returns the loss sum, its weight, and the gradient of the scaled sum."""

        def scaled(values: Any):
            total, weight = loss(values, batch, key)
            return total if scale is None else total * scale, (total, weight)

        (_, (total, weight)), gradient = jax.value_and_grad(scaled, has_aux=True)(values)
        return total, weight, gradient

    def gradient_of(state: TrainState, batch: Any) -> Gradient:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        scale = state.loss_scale.scale if state.loss_scale else None
        if accumulation == 1:
            total, weight, gradient = part(state.params, jax.tree.map(lambda leaf: leaf[0], batch), key, scale)
        else:

            def accumulate(sums: Any, indexed: Any):
                index, rows = indexed
                return jax.tree.map(
                    jnp.add, sums, part(state.params, rows, jax.random.fold_in(key, index), scale)
                ), None

            zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
            (total, weight, gradient), _ = jax.lax.scan(accumulate, zero, (jnp.arange(accumulation), batch))

        divisor = weight if scale is None else weight * scale
        gradient = jax.tree.map(lambda leaf: leaf / divisor, gradient)
        return Gradient(gradient, optax.tree.norm(gradient), total, weight)

    return gradient_of


def update_step(optimizer: Optimizer, *, bounds: OutlierBounds = NO_BOUNDS, is_separate: bool = False):
    """Returns the second half of `fused_step.train_step`: (state, Gradient) -> (state, metrics).

    is_separate: the gradient is an argument of the compiled program, not computed in it.
    """

    def updated(rated: Optimizer, state: TrainState, gradient: Any, norm: jax.Array) -> tuple[Any, Any]:
        gradient = optimizer.clip(gradient, norm=norm)
        updates, slots = rated.transform.update(gradient, state.optimizer, state.params)
        return optax.apply_updates(state.params, updates), slots

    def update(state: TrainState, found: Gradient) -> tuple[TrainState, dict[str, jax.Array]]:
        total, weight, norm = found.total, found.weight, found.norm
        accepted = finite = jnp.isfinite(norm) & jnp.isfinite(total)
        if state.recent:
            accepted = finite & ~state.recent.is_outlier(bounds, total / weight, norm)
        rated = optimizer if state.lr_scale is None else optimizer.scaled(state.lr_scale)
        new = partial(updated, rated, state, found.values, norm)

        def kept(select: Callable[[jax.Array, jax.Array], jax.Array]) -> tuple[Any, Any]:
            """The state after a bad step. Step counts still advance, so that the schedule ends with the run."""

            def keep(new: jax.Array, old: jax.Array) -> jax.Array:
                return new if jnp.issubdtype(new.dtype, jnp.integer) else select(new, old)

            return jax.tree.map(keep, new(), (state.params, state.optimizer))

        with jax.named_scope("optimizer"):
            if is_separate:  # a branch updates in place
                values, slots = jax.lax.cond(accepted, new, lambda: kept(lambda _, old: old))
            else:  # a select fuses with the update; a branch would wait for the gradient
                values, slots = kept(partial(jnp.where, accepted))
        metrics = {
            "loss": total / weight,
            "grad_norm": norm,
            "lr": rated.learning_rate(state.step),
            "finite": finite,
            "accepted": accepted,
        }
        loss_scale = state.loss_scale and state.loss_scale.after(finite)
        recent = state.recent and state.recent.after(total / weight, norm, accepted=accepted)
        return TrainState(state.step + 1, values, slots, loss_scale, recent, state.lr_scale), metrics

    return update


class SeparateUpdate:
    """The step as two programs, called like the one: activations are freed before the update, which works in place.

    In one program, XLA's CPU scheduler begins updates while activations live, and keeps old arrays next to new ones.
    Each gradient takes the place of the one before it: new memory would have to be filled with zeros at each step.
    """

    def __init__(self, gradient_of: Any, update: Any, *, shardings: Gradient):
        options: dict[str, Any] = {"donate_argnums": 2, "keep_unused": True, "out_shardings": shardings}
        self._gradient_of = jax.jit(lambda state, batch, spent: gradient_of(state, batch), **options)
        self._zeros = jax.jit(partial(jax.tree.map, jnp.zeros_like), out_shardings=shardings.values)
        self._update = update
        self._spent: Any = None
        self._compiled: dict[Any, Any] = {}

    def __call__(self, state: TrainState, batch: Any, count: int) -> tuple[TrainState, dict[str, jax.Array]]:
        inputs = _without_optimizer(state), batch
        gradient_of = self._program(self._gradient_of, *inputs, state.params)
        if self._spent is None:
            self._spent = self._zeros(state.params)
        found = gradient_of(*inputs, self._spent)
        self._spent = found.values
        return self._program(self._update, state, found)(state, found)

    def _program(self, function: Any, *arguments: Any) -> Any:
        """Compiles a function once for arguments of these types, without memory that the steps or the compiler keep."""
        if jax.config.values["jax_disable_jit"]:  # for debugging: `lower` would refuse
            return function
        leaves, tree = jax.tree.flatten(arguments)
        key = function, tree, tuple(jax.typeof(leaf) for leaf in leaves)
        if key not in self._compiled:
            malloc.release()
            self._compiled[key] = function.lower(*arguments).compile()
            malloc.release()
        return self._compiled[key]

    def lower(self, state: TrainState, batch: Any, count: int) -> list[Any]:
        """Both programs, lowered."""
        first = self._gradient_of.lower(_without_optimizer(state), batch, state.params)
        return [first, self._update.lower(state, first.out_info)]


def _without_optimizer(state: TrainState) -> TrainState:
    return state._replace(optimizer=None, recent=None, lr_scale=None)
