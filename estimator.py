"""A small Estimator: trains, evaluates and predicts with any `model_fn`, from one device to many.

It is handed functions and knows neither models nor texts. `model_fn(params, mode)` returns an `EstimatorSpec`;
`input_fn(step)` returns this host's rows of the global batch of that step. All state of a run is its folder.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optimizers import Optimizer
from runtime import hardware, mesh, mesh_sizes, params, processes, run_folder, storage
from runtime.checkpoints import NOT_SAVED, Checkpoints
from runtime.errors import UserError
from runtime.feed import Feed, Plan, place
from runtime.meter import Meter
from runtime.metrics import Console, MetricsLog
from runtime.plan import TrainingPlan, held_bytes, summary
from runtime.run_config import RunConfig
from runtime.train_step import TrainState, several_steps, train_step

CHECKPOINTS = "checkpoints"
Mode = Literal["train", "eval", "predict"]


class EstimatorSpec(NamedTuple):
    """What a `model_fn` tells the Estimator.

    parameters: tree of ParamSpec.
    loss: (params, batch, dropout key or None) -> (sum, weight), float32 scalars; the loss is sum / weight.
    optimizer: for training.
    predictor: params -> whatever predicts.
    initial: (shapes of the params, random key, note) -> (step, params, what completes the optimizer's new state).
    tokens_per_example, flops_per_token, activation_bytes (of one example in training): for metrics and plans.
    frozen: names of parameters that get no gradient. copy_bytes: of weights that are copied or summed up for a step.
    """

    parameters: Any
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    optimizer: Optimizer | None = None
    predictor: Callable[..., Any] | None = None
    initial: Callable[..., tuple[int, Any, Callable[[Any], Any]]] | None = None
    tokens_per_example: int = 1
    flops_per_token: float = 0.0
    activation_bytes: float = 0.0
    frozen: Collection[str] = ()
    copy_bytes: float = 0.0


class Estimator:
    """Runs `model_fn` in the folder `config.model_path` on the devices given (default: all).

    console: where training shows itself; without one, only notes are printed.
    """

    def __init__(
        self,
        model_fn: Callable[[Any, Mode], EstimatorSpec],
        model_params: Any,
        config: RunConfig,
        *,
        devices: list[jax.Device] | None = None,
        console: Console | None = None,
    ):
        self.config = config
        self.folder = config.model_path
        self._devices = devices or jax.devices()
        self._model_fn = model_fn
        self._model_params = model_params
        self._console = console
        note = console.note if console else partial(print, file=sys.stderr)
        self._note = note if processes.is_first() else lambda text: None

    def spec(self, mode: Mode) -> EstimatorSpec:
        spec = self._model_fn(self._model_params, mode)
        return spec._replace(loss=mesh.within(self.mesh, spec.loss))

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh that the configuration asks for, or else one by the size of the model."""
        sizes: Any = self.config.mesh
        if sizes is None:
            spec = self._model_fn(self._model_params, "predict")
            sizes, reason = mesh_sizes.automatic(
                spec.parameters,
                devices=len(self._devices),
                batch=self.config.train_batch_size,
                state_bytes=held_bytes(spec),
                limit=hardware.memory_limit(self._devices),
            )
            if len(self._devices) > 1:
                self._note("mesh: " + ", ".join(f"{axis} {size}" for axis, size in sizes.items()) + f" ({reason})")
        return mesh_sizes.make_mesh(sizes, self._devices)

    @property
    def share(self) -> tuple[int, int]:
        """(index, count): which of how many equal parts of a batch this process's `input_fn` gives."""
        return mesh.batch_share(self.mesh)

    # Training.

    def train(
        self,
        input_fn: Callable[[int], dict[str, np.ndarray]],
        *,
        total_steps: int,
        evaluation: Callable[[Any], dict[str, float]] | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> bool:
        """Trains until `total_steps`, calling `evaluation(params)` every `train_steps` and at the end.

        Continues from the newest checkpoint of the folder. `begin` is called when all that can be refused has been
        checked. Returns False when a signal ended the run early.
        """
        config, spec = self.config, self.spec("train")
        accumulation = self.accumulation(spec)
        with contextlib.ExitStack() as stack:
            if processes.is_first():
                stack.enter_context(run_folder.locked(self.folder))
            checkpoints = stack.enter_context(closing(self._checkpoints(writer=True)))
            state = self._initial_state(spec, checkpoints)
            begin()
            step = first_step = int(state.step)
            self._note(summary(self.plan(total_steps=total_steps, first_step=step)))
            if step >= total_steps:
                self._note(f"nothing to do: step {step} of {total_steps} is reached; a larger max_steps goes on")
                return True
            log = None
            if processes.is_first():
                log = stack.enter_context(closing(MetricsLog(self.folder, resume_step=step)))
            meter = Meter(
                log,
                self._console,
                log_steps=config.log_steps,
                tokens_per_step=config.train_batch_size * spec.tokens_per_example,
                flops_per_token=spec.flops_per_token,
                peak_flops=self._peak_flops(),
            )
            periods = (config.train_steps, config.save_steps, config.keep_every_steps)
            plan = Plan(step, total_steps, most=config.iterations, stops=periods)
            train, dims = self.program(spec, accumulation, state)
            sharding = mesh.split_dim(self.mesh, dims)
            feed = Feed(input_fn, plan, sharding=sharding, accumulation=accumulation, most=config.iterations)
            stack.enter_context(closing(feed))
            stop = stack.enter_context(processes.stop_request())
            saved_step, saved_time = step, time.monotonic()
            while step < total_steps and not stop.requested:
                try:
                    with meter.waiting():
                        group = next(feed)
                except UserError:  # of the data; what was learnt so far is kept
                    if saved_step != step:
                        meter.flush()
                        checkpoints.save(step, state._asdict())
                    raise
                # The first call compiles, which is no training time.
                with meter.paused() if step == first_step else contextlib.nullcontext():
                    state, metrics = train(state, group.batches, group.count)
                step += group.count
                meter.add(step, group.count, metrics)
                if jax.process_count() == 1:  # else groups have one size, the same for all
                    plan.seconds_per_step = meter.seconds_per_step

                # Once in a while: evaluate, save.
                at_end = step >= total_steps
                if evaluation and (step % config.train_steps == 0 or at_end):
                    with meter.paused():
                        meter.evaluation(step, evaluation(state.params))
                due = any(period and step % period == 0 for period in periods[1:])
                late = False
                if config.save_minutes is not None and (jax.process_count() == 1 or step % config.log_steps == 0):
                    late = processes.agreed(time.monotonic() - saved_time) > 60 * config.save_minutes
                if due or late or at_end:
                    meter.flush()  # the metrics up to a checkpoint are on disk before it is
                    checkpoints.save(step, state._asdict())
                    saved_step, saved_time = step, time.monotonic()
            meter.flush()
            if saved_step != step:
                checkpoints.save(step, state._asdict())
            checkpoints.wait()
            if step < total_steps:
                self._note(f"{stop.name}: saved at step {step}; the same command continues from there")
            return step >= total_steps

    def _initial_state(self, spec: EstimatorSpec, checkpoints: Checkpoints) -> TrainState:
        """Shapes, then shardings, then values: from 1. the newest checkpoint, 2. `initial`, 3. random numbers."""
        template = self._template(spec)
        if checkpoints.latest_step is not None:
            self._note(f"continuing from step {checkpoints.latest_step} ({checkpoints.folder})")
            return TrainState(**checkpoints.restore(template._asdict()))
        assert spec.optimizer is not None
        transform = spec.optimizer.transform
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)

        def create(key: jax.Array) -> TrainState:
            values = params.initialize(spec.parameters, key)
            return TrainState(jnp.int32(0), values, transform.init(values))

        if spec.initial:
            step, values, completed = spec.initial(template.params, jax.random.key(self.config.seed), note=self._note)
            slots = jax.jit(transform.init, out_shardings=shardings.optimizer)(values)
            return TrainState(jax.device_put(jnp.int32(step), shardings.step), values, completed(slots))
        self._note(f"starting from random weights (seed {self.config.seed})")
        return jax.jit(create, out_shardings=shardings)(jax.random.key(self.config.seed))

    def _template(self, spec: EstimatorSpec) -> TrainState:
        """Shapes and places of the state."""
        assert spec.optimizer is not None, "the model_fn gave no optimizer"
        step, values = self._weights_template(spec)
        slots = jax.eval_shape(spec.optimizer.transform.init, values)
        places = mesh.slot_shardings(spec.parameters, self.mesh, slots)
        return TrainState(step, values, jax.tree.map(_placed, slots, places))

    def _weights_template(self, spec: EstimatorSpec) -> tuple[Any, Any]:
        places = mesh.parameter_shardings(spec.parameters, self.mesh)
        values = jax.tree.map(_placed, params.abstract(spec.parameters), places)
        return _placed(jax.ShapeDtypeStruct((), jnp.int32), mesh.replicated(self.mesh)), values

    def program(self, spec: EstimatorSpec, accumulation: int, state: TrainState):
        """(state, batches, count) -> (state, metrics), reusing the state's buffers; and the batches' leading dims."""
        assert spec.optimizer is not None
        step = train_step(spec.loss, spec.optimizer, accumulation=accumulation, seed=self.config.seed)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        compiled = partial(jax.jit, donate_argnums=0, out_shardings=(shardings, mesh.replicated(self.mesh)))
        if self.config.iterations == 1:
            return compiled(lambda state, batch, count: step(state, batch)), 1
        return compiled(several_steps(step)), 2

    # Evaluation and prediction.

    def evaluate(
        self,
        batches: Callable[[], Iterable[dict[str, np.ndarray]]],
        *,
        describe: Callable[[float], dict[str, float]] = lambda loss: {},
    ) -> Callable[[Any], dict[str, float]]:
        """params -> {"loss": the mean over all weighted targets of the batches, and what `describe(loss)` adds}."""
        spec = self.spec("eval")
        everywhere = mesh.replicated(self.mesh)
        loss = jax.jit(lambda values, batch: jnp.stack(spec.loss(values, batch, None)), out_shardings=everywhere)
        sharding = mesh.split_dim(self.mesh, 0)

        def run(values: Any) -> dict[str, float]:
            parts = (part for batch in batches() for part in self._fitting_parts(batch, spec))
            sums = jax.device_get([loss(values, place(part, sharding)) for part in parts])
            # Added in float64 on the host: the number of batches does not cost digits.
            total, weight = (float(np.sum([pair[i] for pair in sums], dtype=np.float64)) for i in range(2))
            if not weight:
                raise UserError("the evaluation has no target with a weight; set eval_split to other documents")
            return {"loss": total / weight, **describe(total / weight)}

        return run

    def _fitting_parts(self, batch: dict[str, np.ndarray], spec: EstimatorSpec) -> Iterable[dict[str, np.ndarray]]:
        """An evaluation batch in parts that all devices together can hold, the last filled up with rows of weight 0."""
        rows, parts = len(batch["weights"]), mesh.batch_shards(self.mesh) // self.share[1]
        share = math.ceil(rows / parts)
        size = parts * min(share, self.config.micro_batch_size or self._fitting(spec, range(1, share + 1)))
        for first in range(0, rows, size):
            part = {name: value[first : first + size] for name, value in batch.items()}
            missing = size - len(part["weights"])
            filled = {name: np.concatenate([value, np.repeat(value[:1], missing, 0)]) for name, value in part.items()}
            filled["weights"][size - missing :] = 0
            yield filled

    def restore(self, *, step: int | None = None, only: Collection[str] | None = None) -> tuple[int, Any]:
        """Step and parameters of a checkpoint (the newest), or of the beginning; the optimizer's part is not read.

        only: names of the parameters that are read of a checkpoint, to hold no more in memory; None is all.
        """
        self.require_checkpoint()
        spec = self.spec("predict")
        at, values = self._weights_template(spec)
        if spec.initial and self.latest_step() is None:
            return 0, spec.initial(values, jax.random.key(self.config.seed), note=self._note)[1]
        if only is not None:
            values = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if params.path_name(path) in only else NOT_SAVED, values
            )
        with closing(self._checkpoints()) as checkpoints:
            state = checkpoints.restore({"step": at, "params": values, "optimizer": NOT_SAVED}, step=step)
        return int(state["step"]), state["params"]

    def predictor(self, **options: Any) -> Any:
        """What `spec.predictor(params, **options)` makes of the newest checkpoint."""
        spec = self.spec("predict")
        if spec.predictor is None:
            raise UserError("this model does not predict: its model_fn gives no predictor; train or --evaluate it")
        step, values = self.restore()
        self._note(f"weights of step {step} ({self.folder})")
        return spec.predictor(values, **options)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; looks without making the folder."""
        if not storage.is_folder(storage.join(self.folder, CHECKPOINTS)):
            return None
        with closing(self._checkpoints()) as checkpoints:
            return checkpoints.latest_step

    def require_checkpoint(self) -> None:
        if self.latest_step() is None and self.spec("predict").initial is None:
            raise UserError(f"{self.folder} holds no checkpoint yet; train first: python3 main.py --model X.json")

    # Sizes.

    def plan(self, *, total_steps: int, first_step: int) -> TrainingPlan:
        """What training from one step to another would do."""
        spec = self.spec("train")
        accumulation = self.accumulation(spec)
        return TrainingPlan(
            spec=spec,
            state=self._template(spec),
            mesh=self.mesh,
            batch=self.config.train_batch_size,
            accumulation=accumulation,
            total_steps=total_steps,
            first_step=first_step,
        )

    def accumulation(self, spec: EstimatorSpec) -> int:
        """In how many parts a device computes its share of the batch, one after the other."""
        batch, devices = self.config.train_batch_size, mesh.batch_shards(self.mesh)
        if batch % devices:
            raise UserError(
                f"train_batch_size: {batch} sequences do not divide among {devices} devices; "
                f"write {batch // devices * devices or devices} or {(batch // devices + 1) * devices}"
            )
        share = batch // devices
        micro = self.config.micro_batch_size or self._fitting(spec, [n for n in range(1, share + 1) if share % n == 0])
        if share % micro:
            parts = [str(n) for n in range(1, share + 1) if share % n == 0]
            raise UserError(
                f"micro_batch_size: {micro} does not divide a device's {share} sequences "
                f"(train_batch_size {batch} on {devices} device{'s'[: devices > 1]}); write one of {', '.join(parts)}"
            )
        return share // micro

    def _fitting(self, spec: EstimatorSpec, choices: Iterable[int]) -> int:
        """The largest number of examples whose activations fit on a device beside the state and the gradients."""
        limit = hardware.memory_limit(self._devices)
        parts = self.mesh.shape["fsdp"] * self.mesh.shape["tensor"]
        room = 0.9 * limit - held_bytes(spec) / parts
        return max((n for n in choices if n * spec.activation_bytes <= room), default=1)

    def _checkpoints(self, *, writer: bool = False) -> Checkpoints:
        keep = {"keep_last": self.config.keep_checkpoints, "keep_every": self.config.keep_every_steps}
        return Checkpoints(storage.join(self.folder, CHECKPOINTS), writer=writer, **keep)

    def _peak_flops(self) -> float | None:
        peak = hardware.peak_flops(self.mesh.devices.flat[0])
        return peak and peak * self.mesh.size


def _placed(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
