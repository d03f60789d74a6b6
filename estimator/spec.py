"""The interface between models and the Estimator."""

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, Protocol

import jax

from estimator.training.train_step import Optimizer

Mode = Literal["train", "eval", "predict"]


class Initial(Protocol):
    """How a new run begins other than with random weights."""

    def __call__(
        self, values: Any, key: jax.Array, *, note: Callable[[str], None]
    ) -> tuple[int, Any, Callable[[Any], Any]]:
        """Returns the step, the parameters, and a function that completes the new optimizer state.

        values: the shapes and shardings of the parameters. note: prints a line.
        """
        ...

    def names(self) -> Collection[str]:
        """The parameters that do not begin with their declared initial values."""
        ...

    def check(self) -> list[str]:
        """Raises UserError if the weights cannot be read or do not fit; reads no array. Returns warnings."""


class EstimatorSpec(NamedTuple):
    """The result of a `model_fn`: everything the Estimator needs to know of a model.

    parameters: tree of ParamSpec.
    loss: (params, batch, dropout key or None) -> (sum, weight), float32 scalars; the loss is sum / weight.
    optimizer: for training.
    score: (params, batch) -> (log-likelihoods of its targets, whether each is the likeliest token); see `evaluation`.
    predictor: (params, keeps_params) -> an object that predicts; it may empty `params` if keeps_params is False.
    initial: how a new run begins; None is with random weights.
    tokens_per_example, flops_per_token, activation_bytes (one example in training): for metrics and plans.
    frozen: names of parameters that get no gradient.
    frozen_layers: of the others that are stacked, the number of first layers that get none.
    copy_bytes: bytes of compute-dtype weight copies and their gradients per step.
    loss_scaling: whether some gradients are float16, so that the loss is scaled (see `training.loss_scale`).
    """

    parameters: Any
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    optimizer: Optimizer | None = None
    score: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    predictor: Callable[..., Any] | None = None
    initial: Initial | None = None
    tokens_per_example: int = 1
    flops_per_token: float = 0.0
    activation_bytes: float = 0.0
    frozen: Collection[str] = ()
    frozen_layers: int = 0
    copy_bytes: float = 0.0
    loss_scaling: bool = False
