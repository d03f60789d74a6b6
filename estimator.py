"""A small Estimator: trains, evaluates and predicts with any `model_fn`, from one device to many.

It is handed functions and knows neither models nor texts. `model_fn(params, mode)` returns an `EstimatorSpec`;
`input_fn(step)` returns this host's rows of the global batch of that step. All state of a run is its folder.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

from optimizers import Optimizer
from runtime import mesh, params
from runtime.checkpoints import NOT_SAVED, Checkpoints
from runtime.config import Problem, Section
from runtime.errors import UserError
from runtime.feed import Feed, Plan, place
from runtime.interrupts import StopRequest
from runtime.meter import Meter
from runtime.metrics import Console, MetricsLog
from runtime.plan import TrainingPlan

CHECKPOINTS = "checkpoints"
Mode = Literal["train", "eval", "predict"]


class RunConfig(Section):
    """Run."""

    model_path: str = Field(description="folder of the run: config, checkpoints, metrics, samples")
    train_batch_size: int = Field(gt=0, description="sequences of an optimizer step, on all devices together")
    eval_batch_size: int | None = Field(None, gt=0, description="sequences of an evaluation batch; null is the former")
    micro_batch_size: int | None = Field(
        None, gt=0, description="sequences that a device computes at once; null is as many as its memory holds"
    )
    max_steps: int | None = Field(None, gt=0, description="steps after which the run, and the schedule, ends")
    max_tokens: int | None = Field(None, gt=0, description="the same in tokens; the smallest of the three counts")
    max_epochs: float | None = Field(None, gt=0, description="the same in passes over the training documents")
    train_steps: int = Field(1000, gt=0, description="steps between two evaluations")
    eval_steps: int | None = Field(100, gt=0, description="batches of an evaluation; null is the whole split")
    log_steps: int = Field(10, gt=0, description="steps between two lines of metrics")
    save_steps: int | None = Field(None, gt=0, description="steps between two checkpoints, besides save_minutes")
    save_minutes: float | None = Field(10.0, gt=0, description="minutes between two checkpoints")
    keep_checkpoints: int = Field(5, gt=0, description="newest checkpoints that are kept")
    keep_every_steps: int | None = Field(None, gt=0, description="checkpoints at multiples of this are kept for ever")
    iterations: int = Field(1, gt=0, description="steps in one call of the device, when a call takes under 5 seconds")
    seed: int = Field(0, description="of the initial weights and the dropouts")

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if self.max_steps is None and self.max_tokens is None and self.max_epochs is None:
            raise Problem("max_steps", "missing; write when the run ends: max_steps, max_tokens or max_epochs")
        return self

    def total_steps(self, *, tokens_per_example: int, examples_per_epoch: int | None) -> int:
        """Steps until the first of max_steps, max_tokens and max_epochs is reached."""
        ends = []
        if self.max_steps is not None:
            ends.append(self.max_steps)
        if self.max_tokens is not None:
            ends.append(math.ceil(self.max_tokens / (self.train_batch_size * tokens_per_example)))
        if self.max_epochs is not None and examples_per_epoch is not None:
            ends.append(max(1, math.floor(self.max_epochs * examples_per_epoch / self.train_batch_size)))
        return min(ends)


class EstimatorSpec(NamedTuple):
    """What a `model_fn` tells the Estimator.

    parameters: tree of ParamSpec.
    loss: (params, batch, dropout key or None) -> (sum, weight), float32 scalars; the loss is sum / weight.
    optimizer: for training.
    predictor: params -> whatever predicts.
    tokens_per_example, flops_per_token, activation_bytes (of one example in training): for metrics and plans.
    """

    parameters: Any
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    optimizer: Optimizer | None = None
    predictor: Callable[[Any], Any] | None = None
    tokens_per_example: int = 1
    flops_per_token: float = 0.0
    activation_bytes: float = 0.0


class TrainState(NamedTuple):
    step: jax.Array
    params: Any
    optimizer: Any


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
        self.folder = Path(config.model_path)
        self.mesh = mesh.make_mesh(devices)
        self._model_fn = model_fn
        self._model_params = model_params
        self._console = console
        self._note = console.note if console else partial(print, file=sys.stderr)

    def spec(self, mode: Mode) -> EstimatorSpec:
        return self._model_fn(self._model_params, mode)

    # Training.

    def train(
        self,
        input_fn: Callable[[int], dict[str, np.ndarray]],
        *,
        total_steps: int,
        evaluation: Callable[[Any], dict[str, float]] | None = None,
    ) -> bool:
        """Trains until `total_steps`, calling `evaluation(params)` every `train_steps` and at the end.

        Continues from the newest checkpoint of the folder. Returns False when a signal ended it early.
        """
        config, spec = self.config, self.spec("train")
        accumulation = self.accumulation(spec)
        stacked = config.iterations if config.iterations > 1 else None
        checkpoints = self._checkpoints()
        state = self._initial_state(spec, checkpoints)
        step = first_step = int(state.step)
        if step >= total_steps:
            checkpoints.close()
            self._note(f"nothing to do: step {step} of {total_steps} is reached; a larger max_steps goes on")
            return True
        log = MetricsLog(self.folder, resume_step=step)
        meter = Meter(
            log,
            self._console,
            log_steps=config.log_steps,
            tokens_per_step=config.train_batch_size * spec.tokens_per_example,
            flops_per_token=spec.flops_per_token,
            peak_flops=self._peak_flops(),
        )
        plan = Plan(step, total_steps, most=config.iterations, stops=(config.train_steps, config.save_steps))
        feed = Feed(
            input_fn,
            plan,
            sharding=mesh.split_dim(self.mesh, 1 if stacked is None else 2),
            accumulation=accumulation,
            stacked=stacked,
        )
        train = self._compile(spec, accumulation, stacked, state)
        saved_step, saved_time = step, time.monotonic()
        with StopRequest() as stop, closing(feed), closing(checkpoints), closing(log):
            while step < total_steps and not stop.signal:
                with meter.waiting():
                    group = next(feed)
                # The first call compiles, which is no training time.
                with meter.paused() if group.first_step == first_step else contextlib.nullcontext():
                    state, metrics = train(state, group.batches, group.count)
                step += group.count
                meter.add(step, group.count, metrics)
                plan.seconds_per_step = meter.seconds_per_step

                # Once in a while: evaluate, save.
                at_end = step >= total_steps
                if evaluation and (step % config.train_steps == 0 or at_end):
                    with meter.paused():
                        meter.evaluation(step, evaluation(state.params))
                due = config.save_steps is not None and step % config.save_steps == 0
                late = config.save_minutes is not None and time.monotonic() - saved_time > 60 * config.save_minutes
                if due or late or at_end:
                    meter.flush()  # the metrics up to a checkpoint are on disk before it is
                    checkpoints.save(step, state._asdict())
                    saved_step, saved_time = step, time.monotonic()
            meter.flush()
            if saved_step != step:
                checkpoints.save(step, state._asdict())
            checkpoints.wait()
        if stop.signal:
            self._note(f"{stop.signal.name}: saved at step {step}; the same command continues from there")
        return stop.signal is None

    def _initial_state(self, spec: EstimatorSpec, checkpoints: Checkpoints) -> TrainState:
        """Shapes, then shardings, then values: from 1. the newest checkpoint of this run, 2. random numbers."""
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

        self._note(f"starting from random weights (seed {self.config.seed})")
        return jax.jit(create, out_shardings=shardings)(jax.random.key(self.config.seed))

    def _template(self, spec: EstimatorSpec) -> TrainState:
        """Shapes and places of the state."""
        assert spec.optimizer is not None, "the model_fn gave no optimizer"
        step, values = self._weights_template(spec)
        slots = jax.eval_shape(spec.optimizer.transform.init, values)
        everywhere = mesh.replicated(self.mesh)
        return TrainState(step, values, jax.tree.map(partial(_placed, sharding=everywhere), slots))

    def _weights_template(self, spec: EstimatorSpec) -> tuple[Any, Any]:
        places = mesh.parameter_shardings(spec.parameters, self.mesh)
        values = jax.tree.map(_placed, params.abstract(spec.parameters), places)
        return _placed(jax.ShapeDtypeStruct((), jnp.int32), mesh.replicated(self.mesh)), values

    def _compile(self, spec: EstimatorSpec, accumulation: int, stacked: int | None, state: TrainState):
        """(state, batches, count) -> (state, metrics); the state's buffers are reused."""
        step = train_step(spec, accumulation=accumulation, seed=self.config.seed)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        if stacked is None:
            one = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
            return lambda state, batch, count: one(state, batch)

        def several(state: TrainState, batches: Any, count: jax.Array):
            def body(i: jax.Array, carry: tuple[TrainState, dict[str, jax.Array]]):
                state, kept = carry
                state, metrics = step(state, jax.tree.map(lambda leaf: leaf[i], batches))
                return state, {name: kept[name].at[i].set(value) for name, value in metrics.items()}

            shapes = jax.eval_shape(step, state, jax.tree.map(lambda leaf: leaf[0], batches))[1]
            kept = {name: jnp.zeros((stacked,), shape.dtype) for name, shape in shapes.items()}
            return jax.lax.fori_loop(0, count, body, (state, kept))

        return jax.jit(several, donate_argnums=0, out_shardings=(shardings, None))

    # Evaluation and prediction.

    def evaluate(
        self,
        batches: Callable[[], Iterable[dict[str, np.ndarray]]],
        *,
        describe: Callable[[float], dict[str, float]] = lambda loss: {},
    ) -> Callable[[Any], dict[str, float]]:
        """params -> {"loss": the mean over all weighted targets of the batches, and what `describe(loss)` adds}."""
        spec = self.spec("eval")
        loss = jax.jit(lambda values, batch: jnp.stack(spec.loss(values, batch, None)))
        sharding = mesh.split_dim(self.mesh, 0)

        def run(values: Any) -> dict[str, float]:
            sums = jax.device_get([loss(values, place(batch, sharding)) for batch in batches()])
            # Added in float64 on the host: the number of batches does not cost digits.
            total, weight = (float(np.sum([pair[i] for pair in sums], dtype=np.float64)) for i in range(2))
            return {"loss": total / weight, **describe(total / weight)}

        return run

    def restore(self) -> tuple[int, Any]:
        """Step and parameters of the newest checkpoint; the optimizer's part is not read."""
        self.require_checkpoint()
        with closing(self._checkpoints()) as checkpoints:
            step, values = self._weights_template(self.spec("predict"))
            state = checkpoints.restore({"step": step, "params": values, "optimizer": NOT_SAVED})
        return int(state["step"]), state["params"]

    def predictor(self) -> Any:
        """What `spec.predictor` makes of the newest checkpoint."""
        spec = self.spec("predict")
        assert spec.predictor is not None, "the model_fn gave no predictor"
        step, values = self.restore()
        self._note(f"weights of step {step} ({self.folder})")
        return spec.predictor(values)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; looks without making the folder."""
        if not (self.folder / CHECKPOINTS).is_dir():
            return None
        with closing(self._checkpoints()) as checkpoints:
            return checkpoints.latest_step

    def require_checkpoint(self) -> None:
        if self.latest_step() is None:
            raise UserError(f"{self.folder} holds no checkpoint yet; train first: python3 main.py --model X.json")

    # Sizes.

    def plan(self, *, total_steps: int, **told: Any) -> TrainingPlan:
        """What training would do; `told` is the rest of TrainingPlan, which only the caller knows."""
        spec = self.spec("train")
        accumulation = self.accumulation(spec)
        return TrainingPlan(
            specs=spec.parameters,
            state=self._template(spec),
            devices=list(self.mesh.devices.flat),
            batch=self.config.train_batch_size,
            micro_batch=self.config.train_batch_size // self.mesh.size // accumulation,
            accumulation=accumulation,
            tokens_per_example=spec.tokens_per_example,
            activation_bytes=spec.activation_bytes,
            flops_per_token=spec.flops_per_token,
            total_steps=total_steps,
            first_step=self.latest_step() or 0,
            **told,
        )

    def accumulation(self, spec: EstimatorSpec) -> int:
        """In how many parts a device computes its share of the batch, one after the other."""
        batch, devices = self.config.train_batch_size, self.mesh.size
        if batch % devices:
            raise UserError(
                f"train_batch_size: {batch} sequences do not divide among {devices} devices; "
                f"write {batch // devices * devices or devices} or {(batch // devices + 1) * devices}"
            )
        share = batch // devices
        micro = self.config.micro_batch_size or self._fitting(spec, share)
        if share % micro:
            parts = [str(n) for n in range(1, share + 1) if share % n == 0]
            raise UserError(
                f"micro_batch_size: {micro} does not divide a device's {share} sequences "
                f"(train_batch_size {batch} on {devices} device{'s'[: devices > 1]}); write one of {', '.join(parts)}"
            )
        return share // micro

    def _fitting(self, spec: EstimatorSpec, share: int) -> int:
        """The largest divisor of `share` whose activations fit beside the state."""
        limit = mesh.memory_limit(self.mesh.devices.flat[0])
        state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._template(spec)))
        gradients = 4 * params.count(spec.parameters)
        room = 0.9 * limit - state - 2 * gradients
        fitting = [n for n in range(1, share + 1) if share % n == 0 and n * spec.activation_bytes <= room]
        return max(fitting, default=1)

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(
            self.folder / CHECKPOINTS, keep_last=self.config.keep_checkpoints, keep_every=self.config.keep_every_steps
        )

    def _peak_flops(self) -> float | None:
        peak = mesh.peak_flops(self.mesh.devices.flat[0])
        return peak and peak * self.mesh.size


def _placed(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def train_step(spec: EstimatorSpec, *, accumulation: int, seed: int):
    """The function (state, batch) -> (state, metrics) of one optimizer step.

    batch: leaves [accumulation, examples, ...]. The gradient is that of sum / weight over the whole batch, however it
    is cut. An update that is not finite leaves parameters and optimizer as they were; metrics["finite"] tells.
    """
    assert spec.optimizer is not None
    optimizer = spec.optimizer
    sum_and_gradient = jax.value_and_grad(spec.loss, has_aux=True)

    def part(values: Any, batch: Any, key: jax.Array):
        (total, weight), gradient = sum_and_gradient(values, batch, key)
        return total, weight, gradient

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulation == 1:
            total, weight, gradient = part(state.params, jax.tree.map(lambda leaf: leaf[0], batch), key)
        else:

            def accumulate(sums: Any, indexed: Any):
                index, rows = indexed
                return jax.tree.map(jnp.add, sums, part(state.params, rows, jax.random.fold_in(key, index))), None

            zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
            (total, weight, gradient), _ = jax.lax.scan(accumulate, zero, (jnp.arange(accumulation), batch))

        gradient = jax.tree.map(lambda leaf: leaf / weight, gradient)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(total)
        gradient = optimizer.clip(gradient, norm=norm)
        updates, slots = optimizer.transform.update(gradient, state.optimizer, state.params)
        values = optax.apply_updates(state.params, updates)
        # A select, which fuses with the update, and not a branch, which would have to wait for the gradient.
        values, slots = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (values, slots), (state.params, state.optimizer)
        )
        metrics = {
            "loss": total / weight,
            "grad_norm": norm,
            "lr": optimizer.learning_rate(state.step),
            "finite": finite,
        }
        return TrainState(state.step + 1, values, slots), metrics

    return step
