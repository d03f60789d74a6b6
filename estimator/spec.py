"""The interface between models and the Estimator."""

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import jax

from estimator.training.optim.optimizer import Optimizer

Mode = Literal["train", "eval", "predict"]


class EstimatorSpec(NamedTuple):
    """The result of a `model_fn`: everything the Estimator needs to know of a model.

    parameters: tree of ParamSpec.
    loss: (params, batch, dropout key or None) -> (sum, weight), float32 scalars; the loss is sum / weight.
    optimizer: for training.
    score: (params, batch) -> (log-likelihoods of its targets, whether each is the likeliest token); see `evaluation`.
    predictor: params -> an object that predicts.
    initial: (shapes of the params, random key, note) -> (step, params, function that completes the new opt_state).
    tokens_per_example, flops_per_token, activation_bytes (one example in training): for metrics and plans.
    frozen: names of parameters that get no gradient.
    copy_bytes: bytes of compute-dtype weight copies and their gradients per step.
    loss_scaling: whether some gradients are float16, so that the loss is scaled (see `training.loss_scale`).
    """

    parameters: Any
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    optimizer: Optimizer | None = None
    score: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    predictor: Callable[..., Any] | None = None
    initial: Callable[..., tuple[int, Any, Callable[[Any], Any]]] | None = None
    tokens_per_example: int = 1
    flops_per_token: float = 0.0
    activation_bytes: float = 0.0
    frozen: Collection[str] = ()
    copy_bytes: float = 0.0
    loss_scaling: bool = False
