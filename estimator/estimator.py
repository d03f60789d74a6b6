"""A small Estimator: trains, evaluates and predicts with any `model_fn`, from one device to many.

It knows neither models nor data: `model_fn(params, mode)` returns an `EstimatorSpec`, and `input_fn(step)` returns
this process's rows of the global batch of a step. All state of a run is in its folder.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.errors import UserError
from estimator.parallel import agreement, auto_mesh, device_check, distributed, hardware, mesh, stop_together
from estimator.parallel.signals import StopRequest
from estimator.spec import EstimatorSpec as EstimatorSpec
from estimator.spec import Mode as Mode
from estimator.system import malloc
from estimator.training import missing_checkpoints, progress, run_dir, run_identity, run_lock
from estimator.training.bad_steps import BadStep
from estimator.training.best import BestWeights, forget_later
from estimator.training.data_position import DataPosition, DataSpan
from estimator.training.dry_run import TrainingPlan, held_bytes, summary
from estimator.training.fused_step import several_steps, train_step
from estimator.training.history import early_stop, read_history
from estimator.training.initial_state import initial_state, state_template
from estimator.training.live_control import LiveControl
from estimator.training.metrics_writers import Console, MetricsLog
from estimator.training.monitor import IN_FLIGHT, Evaluation, TrainMonitor
from estimator.training.prefetch import Prefetcher, StepPlan, place
from estimator.training.preflight import require_memory
from estimator.training.profile import ProfiledSteps
from estimator.training.run_checkpoints import RunCheckpoints
from estimator.training.run_config import RunConfig
from estimator.training.samples import Samples, Sampling
from estimator.training.session import TrainingSession, with_rollbacks
from estimator.training.train_step import Gradient, SeparateUpdate, TrainState, gradient_step, update_step

InputFunction = Callable[[int], dict[str, np.ndarray]]  # step -> arrays [rows of this process, ...]


class Estimator:
    """Runs `model_fn` in the folder `config.model_path` on the given devices (default: all).

    console: shows the progress of training; without one, only notes are printed, to stderr. profile: steps to trace.
    """

    def __init__(
        self,
        model_fn: Callable[[Any, Mode], EstimatorSpec],
        model_params: Any,
        config: RunConfig,
        *,
        devices: list[jax.Device] | None = None,
        console: Console | None = None,
        profile: range | None = None,
    ):
        self.config = config
        self.folder = config.model_path
        self._devices = devices or jax.devices()
        self._model_fn = model_fn
        self._model_params = model_params
        self._console, self._profile = console, profile
        note = console.note if console else partial(print, file=sys.stderr)
        self._note = note if distributed.is_first() else lambda text: None
        self.checkpoints = RunCheckpoints(config)
        self.was_commanded_to_stop = False

    def spec(self, mode: Mode) -> EstimatorSpec:
        """The model's spec, with a loss and a score that run on this Estimator's mesh."""
        spec = self._model_fn(self._model_params, mode)
        score = spec.score and mesh.with_mesh(self.mesh, spec.score)
        return spec._replace(loss=mesh.with_mesh(self.mesh, spec.loss), score=score)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of the configuration, or one chosen by the size of the model, which it names."""
        sizes, reason = self._mesh_sizes(self._model_fn(self._model_params, "predict"))
        if reason and len(self._devices) > 1:
            self._note("mesh: " + ", ".join(f"{axis} {size}" for axis, size in sizes.items()) + f" ({reason})")
        return auto_mesh.make_mesh(sizes, self._devices)

    def _mesh_sizes(self, spec: EstimatorSpec) -> tuple[Any, str]:
        """The sizes of the mesh's axes and the reason; none for those of the configuration."""
        if self.config.mesh is not None:
            return self.config.mesh, ""
        batch, limit = self.config.train_batch_size, hardware.memory_limit(self._devices)
        return auto_mesh.automatic(
            spec.parameters, devices=len(self._devices), batch=batch, state_bytes=held_bytes(spec), limit=limit
        )

    @property
    def process_slice(self) -> tuple[int, int]:
        """(index, count): the part of a batch, of `count` equal parts, that this process's `input_fn` returns."""
        return mesh.batch_share(self.mesh)

    # Training.

    def train(
        self,
        input_fn: InputFunction,
        *,
        total_steps: int,
        evaluation: Evaluation | None = None,
        sampling: Sampling | None = None,
        begin: Callable[[int], None] = lambda step: None,
        position: DataPosition | None = None,
    ) -> bool:
        """Trains until `total_steps`, calling `evaluation` every `train_steps` and at the end, and `sampling` every
        `sample_steps`.

        Continues from the newest checkpoint of the folder. `begin(step)` is called after all checks have passed.
        position: where `input_fn` reads, for runs whose batch size has changed, and for rollbacks. Returns False when a
        signal or command ended the run early. Raises DivergedError when the run is lost.
        """
        if position is None and self.config.on_bad_step == "rollback":
            raise UserError("on_bad_step: rollback needs the `position` of the data; pass it to Estimator.train")
        with contextlib.ExitStack() as stack:
            guard = stack.enter_context(run_lock.locked(self.folder)) if distributed.is_first() else None
            stop = stop_together.stop_request()  # one for all attempts: a signal counts until the end
            plan = self.plan(total_steps=total_steps, first_step=0)
            require_memory(plan)
            if position is None:  # for input functions that read the same number of windows in every step
                position = DataPosition([DataSpan(0, 0, 0, plan.batch, plan.spec.tokens_per_example, None, 0)])
            actions = (evaluation, sampling, begin)
            attempt = partial(self._train, input_fn, total_steps, *actions, position, guard=guard, stop=stop)
            return with_rollbacks(attempt, position, self.config)

    def _train(
        self,
        input_fn: InputFunction,
        total_steps: int,
        evaluation: Evaluation | None,
        sampling: Sampling | None,
        begin: Callable[[int], None],
        position: DataPosition,
        bad: BadStep | None,
        *,
        guard: Callable[[], None] | None,
        stop: StopRequest,
    ) -> bool:
        """Trains from the newest checkpoint. bad: the step that made the run return to it."""
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(closing(self.checkpoints.open(writer=True, guard=guard)))
            if checkpoints.latest_step is None and bad is None:
                agreement.from_first(lambda: missing_checkpoints.require_none(self.folder, checkpoints.folder))
            if bad is None:
                agreement.from_first(lambda: run_identity.require_own(self.folder, checkpoints.latest_step))
            state = initial_state(self.spec("train"), self.mesh, self.config, checkpoints, self._note)
            device_check.check_replicas(state.params)
            step = int(state.step)
            plan = self.plan(total_steps=total_steps, first_step=step)
            if bad:
                position.move(step, bad.step)
                if distributed.is_first():
                    progress.write(self.folder, position.spans)
                self._note(f"{bad}; rolled back to step {step}, to continue with the data after its batch")
            elif step <= total_steps:  # of fewer steps than it has, a run keeps the keys that it was trained with
                begin(step)
                self._note(summary(plan))
            checkpoints.run = run_dir.identity(self.folder)
            for line in agreement.from_first(lambda: forget_later(self.folder, step)):
                self._note(line)
            history = read_history(self.config, checkpoints, step, evaluation=position.evaluation)
            is_evaluated = evaluation is None or not history.owes_evaluation(step, at_end=step == total_steps)
            if is_evaluated and history.best.waited >= (self.config.patience or math.inf):
                self._note(early_stop(history.best, step))
                return True
            if step >= total_steps and is_evaluated:
                self._note(f"already at step {step} of {total_steps}; raise {self.config.limits} to continue")
                return True
            log = None
            if distributed.is_first():
                log = MetricsLog(self.folder, resume_step=step, trackers=self.config.trackers, is_replay=bad is None)
                stack.enter_context(closing(log))
            monitor = TrainMonitor(
                log,
                self._console,
                config=self.config,
                spec=plan.spec,
                peak_flops=hardware.peak_flops(self.mesh.devices.flat[0], count=self.mesh.size),
                watch=history.watch,
                position=position,
            )
            best = None
            if self.config.keep_best:
                best = stack.enter_context(closing(BestWeights(self.folder, checkpoints, guard=guard)))
                best.restore(history.best.step, plan.state, history.losses)
            samples = Samples(self.folder, self.config.sample_steps, sampling, monitor) if sampling else None
            stack.enter_context(stop)
            session = TrainingSession(
                self.config, monitor, checkpoints, stop, history.best, step, total_steps, is_evaluated
            )
            session.evaluation, session.samples, session.best_weights = evaluation, samples, best
            assert plan.spec.optimizer
            control = LiveControl(self.folder, step, session, peak=plan.spec.optimizer.peak)
            stack.enter_context(closing(control))
            if line := history.change_of_rate(plan.spec.optimizer.learning_rate, control.rate, step, last=total_steps):
                self._note(line)
            monitor.start(step, total_steps=total_steps, bad=bad)
            session.begin(step, state)
            step, state = self._train_steps(input_fn, plan, session, control, control.begin(step, state))
            self.was_commanded_to_stop = bool(stop.command)
            session.finish(step, state)
            control.saved()
            if line := session.closing_line(step):
                self._note(line)
            return session.is_complete(step)

    def _train_steps(
        self,
        input_fn: InputFunction,
        plan: TrainingPlan,
        session: TrainingSession,
        control: LiveControl,
        state: TrainState,
    ) -> tuple[int, TrainState]:
        """The training loop: one device call after the other, until the end of the run or a stop request."""
        config, monitor = self.config, session.monitor
        step = first_step = plan.first_step
        periods = (config.train_steps, config.save_steps, config.keep_every_steps, config.sample_steps)
        calls = StepPlan(
            step, plan.total_steps, max_steps_per_call=config.iterations, stops=periods, ends=control.steps
        )
        train, dims = self.program(plan.spec, plan.accumulation, state)
        sizes = {"accumulation": plan.accumulation, "max_steps_per_call": config.iterations}
        with contextlib.ExitStack() as stack:
            if self._profile and distributed.is_first():
                train = ProfiledSteps(train, self._profile, step, folder=self.folder, note=self._note)
                stack.enter_context(closing(train))
            groups = Prefetcher(input_fn, calls, sharding=mesh.split_dim(self.mesh, dims), **sizes)
            stack.enter_context(closing(groups))
            while step < plan.total_steps and not session.is_exhausted and not session.stop.requested:
                group = session.next_group(groups, step, state)
                # The first call compiles, which is not training time.
                with monitor.paused("compile") if step == first_step else contextlib.nullcontext():
                    state, metrics = train(state, group.batches, group.count)
                if step == first_step:
                    malloc.release()  # of the compiler's memory
                step += group.count
                session.record(step, group.count, metrics)
                if jax.process_count() == 1:  # several processes need groups of one size
                    calls.seconds_per_step = monitor.seconds_per_step
                session.act(step, group.count, state)
                state = control.obey(step, state)
        return step, state

    def program(self, spec: EstimatorSpec, accumulation: int, state: TrainState):
        """The compiled (state, batches, count) -> (state, metrics), and the number of leading dims of its batches.

        They are [accumulation], or [steps, accumulation] when a call takes several steps. The state is donated.
        """
        assert spec.optimizer
        config, everywhere = self.config, mesh.replicated(self.mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        compiled = partial(jax.jit, donate_argnums=0, out_shardings=(shardings, everywhere))
        if config.iterations == 1 and self.mesh.devices.flat[0].platform == "cpu":
            gradient_of = gradient_step(spec.loss, accumulation=accumulation, seed=config.seed)
            placed = Gradient._make([shardings.params] + [everywhere] * 3)
            update = update_step(spec.optimizer, bounds=config.bounds, is_separate=True)
            return SeparateUpdate(gradient_of, compiled(update), shardings=placed), 1
        step = train_step(spec.loss, spec.optimizer, accumulation=accumulation, seed=config.seed, bounds=config.bounds)
        if config.iterations == 1:
            return compiled(lambda state, batch, count: step(state, batch)), 1
        return compiled(several_steps(step)), 2

    # Evaluation and prediction.

    def evaluate(
        self,
        batches: Callable[[], Iterable[dict[str, np.ndarray]]],
        *,
        describe: Callable[[float], dict[str, float]] = lambda loss: {},
    ) -> Evaluation:
        """A function: params -> {"loss": mean over all weighted targets, in nats, and the entries of `describe(loss)`}.

        It returns None if its argument `stop`, which it calls before each batch, returns True. Raises UserError if no
        target has a weight.
        """
        spec = self.spec("eval")
        everywhere = mesh.replicated(self.mesh)
        loss = jax.jit(lambda values, batch: jnp.stack(spec.loss(values, batch, None)), out_shardings=everywhere)
        sharding = mesh.split_dim(self.mesh, 0)
        limit = self.config.micro_batch_size or max(1, self.examples_that_fit(spec))

        def run(values: Any, stop: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
            sums: list[Any] = []
            for part in (part for batch in batches() for part in self._fitting_parts(batch, limit)):
                if stop():
                    return None
                sums.append(loss(values, place(part, sharding)))
                if len(sums) > IN_FLIGHT:  # a short queue lets a stop take effect soon
                    jax.block_until_ready(sums[-1 - IN_FLIGHT])
            sums = jax.device_get(sums)
            # Summed in float64 on the host, so that many batches lose no precision.
            total, weight = (float(np.sum([pair[i] for pair in sums], dtype=np.float64)) for i in range(2))
            if not weight:
                raise UserError("the evaluation has no target with a weight; set eval_split to other documents")
            return {"loss": total / weight, **describe(total / weight)}

        return run

    def _fitting_parts(self, batch: dict[str, np.ndarray], limit: float) -> Iterable[dict[str, np.ndarray]]:
        """Splits an evaluation batch into parts of at most `limit` rows a device; the last is padded, with weight 0."""
        rows, parts = len(batch["weights"]), mesh.batch_shards(self.mesh) // self.process_slice[1]
        size = parts * int(min(math.ceil(rows / parts), limit))
        for first in range(0, rows, size):
            part = {name: value[first : first + size] for name, value in batch.items()}
            missing = size - len(part["weights"])
            filled = {name: np.concatenate([value, np.repeat(value[:1], missing, 0)]) for name, value in part.items()}
            filled["weights"][size - missing :] = 0
            yield filled

    def restore(self, *, step: int | None = None, only: Collection[str] | None = None) -> tuple[int, Any]:
        """Step and parameters of a checkpoint, without the optimizer's state.

        step: None is the newest, or with `load_best` the best; without a checkpoint, step 0 with the weights of
        `init_from`. only: names of the parameters to read, to save memory; None is all. Raises UserError if neither
        exists or weights are not finite.
        """
        return self.checkpoints.restore(self.spec("predict"), self.mesh, step=step, only=only, note=self._note)

    def predictor(self, **options: Any) -> Any:
        """`spec.predictor(params, **options)` with the weights of the newest checkpoint; UserError without one."""
        spec = self.spec("predict")
        if spec.predictor is None:
            raise UserError("this model does not predict: its model_fn gives no predictor; train or --evaluate it")
        step, values = self.restore()
        is_trained = self.loaded_step() is not None
        self._note(f"weights of {f'step {step}' if is_trained else 'init_from'} ({self.folder})")
        return spec.predictor(values, keeps_params=False, **options)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None. Neither creates the folder nor downloads a checkpoint."""
        return self.checkpoints.latest_step()

    def loaded_step(self) -> int | None:
        """The same of the checkpoint that `restore` reads: with `load_best`, the one in RUN/best."""
        return self.checkpoints.loaded_step()

    def require_checkpoint(self) -> None:
        """Raises UserError if the run has neither a checkpoint nor weights to start from."""
        self.checkpoints.require(has_initial=self.spec("predict").initial is not None)

    def check_initial(self) -> list[str]:
        """Warnings about the weights of `init_from`; UserError if a new run cannot begin with them or on its mesh."""
        spec = self._model_fn(self._model_params, "predict")
        auto_mesh.make_mesh(self._mesh_sizes(spec)[0], self._devices)
        return spec.initial.check() if spec.initial else []

    # Sizes.

    def plan(self, *, total_steps: int, first_step: int) -> TrainingPlan:
        """The sizes of training from `first_step` to `total_steps`; allocates nothing on the devices."""
        spec = self.spec("train")
        steps = {"total_steps": total_steps, "first_step": first_step}
        sizes = {"batch": self.config.train_batch_size, "accumulation": self.accumulation(spec)}
        return TrainingPlan(
            spec=spec, state=state_template(spec, self.mesh, self.config), mesh=self.mesh, **sizes, **steps
        )

    def accumulation(self, spec: EstimatorSpec) -> int:
        """Number of micro-batches that a device processes per step. Raises UserError for sizes that do not divide."""
        return self.config.accumulation(devices=mesh.batch_shards(self.mesh), limit=self.examples_that_fit(spec))

    def examples_that_fit(self, spec: EstimatorSpec) -> float:
        """Number of training examples whose activations fit on a device along with the state and the gradients."""
        parts = self.mesh.shape["fsdp"] * self.mesh.shape["tensor"]
        room = 0.9 * hardware.memory_limit(self._devices) - held_bytes(spec) / parts
        return room / spec.activation_bytes if spec.activation_bytes else math.inf
