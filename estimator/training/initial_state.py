"""The training state that a run begins or continues with, and its shapes and shardings."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimator.errors import UserError
from estimator.parallel import mesh, param_spec
from estimator.parallel.shardings import parameter_shardings, slot_shardings
from estimator.training.bad_steps import RecentSteps
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import Checkpoints, listed, not_finite
from estimator.training.loss_scale import LossScale
from estimator.training.run_config import RunConfig
from estimator.training.train_step import TrainState


def initial_state(
    spec: Any, on: jax.sharding.Mesh, config: RunConfig, checkpoints: Checkpoints | None, note: Callable[[str], None]
) -> TrainState:
    """The state of the newest checkpoint, or else that of `spec.initial`, or else random weights.

    spec: an EstimatorSpec. checkpoints: None for a new run. note: prints a line.
    """
    template = state_template(spec, on, config)
    parts = optional_parts(spec, on, config)
    if checkpoints and checkpoints.latest_step is not None:
        unused = "; init_from is not read" if spec.initial else ""
        note(f"continuing from step {checkpoints.latest_step} ({checkpoints.folder}){unused}")
        # A run with other settings has saved no loss scale or recent steps.
        state = TrainState(**(parts | restore(checkpoints, template.parts())))
        require_finite(f"{config.model_path}, step {int(state.step)}", state.params)
        return state
    assert spec.optimizer is not None
    transform = spec.optimizer.transform
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)

    def create(key: jax.Array) -> TrainState:
        values = param_spec.initialize(spec.parameters, key)
        return TrainState(jnp.int32(0), values, transform.init(values), **parts)

    if spec.initial:
        step, values, completed = spec.initial(template.params, jax.random.key(config.seed), note=note)
        require_finite("init_from", values)
        opt_state = jax.jit(transform.init, out_shardings=shardings.optimizer)(values)
        return TrainState(jax.device_put(jnp.int32(step), shardings.step), values, completed(opt_state), **parts)
    note(f"starting from random weights (seed {config.seed})")
    return jax.jit(create, out_shardings=shardings)(jax.random.key(config.seed))


def optional_parts(spec: Any, on: jax.sharding.Mesh, config: RunConfig) -> dict[str, Any]:
    """The parts of a new state that only some settings have, or None for each."""
    return {
        "loss_scale": LossScale.initial(mesh.replicated(on)) if spec.loss_scaling else None,
        "recent": RecentSteps.initial(mesh.replicated(on)) if any(config.bounds) else None,
    }


def state_template(spec: Any, on: jax.sharding.Mesh, config: RunConfig) -> TrainState:
    """The state as ShapeDtypeStructs with shardings."""
    assert spec.optimizer is not None, "the model_fn gave no optimizer"
    step, values = weights_template(spec, on)
    opt_state = jax.eval_shape(spec.optimizer.transform.init, values)
    placed = slot_shardings(spec.parameters, on, opt_state)
    scale = LossScale.template(mesh.replicated(on)) if spec.loss_scaling else None
    recent = RecentSteps.template(mesh.replicated(on)) if any(config.bounds) else None
    return TrainState(step, values, jax.tree.map(_placed, opt_state, placed), scale, recent)


def weights_template(spec: Any, on: jax.sharding.Mesh) -> tuple[Any, Any]:
    """The step and the parameters as ShapeDtypeStructs with shardings."""
    values = jax.tree.map(_placed, param_spec.abstract(spec.parameters), parameter_shardings(spec.parameters, on))
    return _placed(jax.ShapeDtypeStruct((), jnp.int32), mesh.replicated(on)), values


def require_finite(source: str, params: Any) -> None:
    """Raises UserError if weights are not finite. A collective: all processes must call it."""
    if names := not_finite(params):
        raise UserError(
            f"{source}: the weights have diverged, {listed(names)} is not finite (NaN or infinite); use "
            "others, such as those of an earlier checkpoint (move this one out of the run)"
        )


def _placed(shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
