"""What happens between the device calls of a training run: metrics, checks, checkpoints, evaluations, samples."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax

from estimator.errors import DivergedError, UserError
from estimator.parallel import device_check, distributed
from estimator.parallel.signals import StopRequest
from estimator.training.bad_steps import BadStep, RollBackError
from estimator.training.best import BestWeights
from estimator.training.checkpoints import Checkpoints, listed, not_finite
from estimator.training.data_position import DataPosition
from estimator.training.history import early_stop
from estimator.training.monitor import BestEvaluation, Evaluation, TrainMonitor
from estimator.training.prefetch import StepGroup
from estimator.training.run_config import RunConfig
from estimator.training.samples import Samples
from estimator.training.train_step import TrainState


@dataclass
class TrainingSession:
    """One process's training between device calls; refuses diverged states, and keeps good checkpoints from rotation.

    evaluation, samples, best_weights: None if the run has none. is_evaluated: whether no evaluation is owed at the
    newest step. saved: step of the newest checkpoint. is_paused: by a command, since `paused_at` (time.monotonic).
    """

    config: RunConfig
    monitor: TrainMonitor
    checkpoints: Checkpoints
    stop: StopRequest
    best: BestEvaluation
    saved: int
    total_steps: int
    is_evaluated: bool
    evaluation: Evaluation | None = None
    samples: Samples | None = None
    best_weights: BestWeights | None = None
    is_paused: bool = False
    paused_at: float = 0.0

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()
        self._good = self.saved
        self._protect()

    def begin(self, step: int, state: TrainState) -> None:
        """Makes up for what a kill prevented at this step."""
        if not self.is_evaluated:
            self.evaluate(step, state)
        if self.samples and self.samples.are_owed(step):
            self.sample(step, state)

    def next_group(self, groups: Iterator[StepGroup], step: int, state: TrainState) -> StepGroup:
        """The batches of the next device call; on a UserError of the data, saves the steps so far first."""
        try:
            with self.monitor.waiting():
                return next(groups)
        except UserError:
            self.save(step, state, by_request=True)
            raise

    def record(self, step: int, count: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of the `count` steps up to `step`, which the device may still be computing.

        Raises DivergedError when the run is lost, and UserError when a checkpoint could not be written.
        """
        self.checkpoints.raise_failure()
        with self.explained():
            self.monitor.add(step, count, metrics)

    def act(self, step: int, count: int, state: TrainState) -> None:
        """Checks the devices, saves, evaluates and samples, where due after a call of `count` steps up to `step`."""

        def is_due(period: int | None) -> bool:
            return bool(period) and step // period > (step - count) // period

        at_end = step >= self.total_steps
        if is_due(self.config.check_steps):
            with self.explained(), self.monitor.paused("check"):
                device_check.check_products()
                device_check.check_replicas(state.params)
        if at_end or is_due(self.config.save_steps) or is_due(self.config.keep_every_steps) or self._time_is_up(step):
            self.save(step, state, at_end=at_end)
        if at_end or is_due(self.config.train_steps):
            self.evaluate(step, state)
        if is_due(self.config.sample_steps):
            self.sample(step, state)

    def finish(self, step: int, state: TrainState) -> None:
        """Saves the last step and waits until it is on disk."""
        self.save(step, state, by_request=True)
        with self.monitor.paused("checkpoint"):
            self.checkpoints.wait()
        self.monitor.stop(step, is_complete=self.is_complete(step))

    def closing_line(self, step: int) -> str:
        """A line on why the run ended at this step, or on its best checkpoint, or ""."""
        if not self.is_complete(step):
            done = "no step is trained yet" if self.checkpoints.latest_step is None else f"saved at step {step}"
            return f"{self.stop.name}: {done}; the same command continues from there"
        if self.is_exhausted:
            return early_stop(self.best, step)
        is_last = self.best.lowest_at in (0, step) or (self.best.is_saved and self.best.step == step)
        return "" if is_last else self._best_line()

    @property
    def is_exhausted(self) -> bool:
        """Whether `patience` ends the run; equal on all processes."""
        return self.best.waited >= (self.config.patience or math.inf)

    def is_complete(self, step: int) -> bool:
        """Whether the run has ended and its last evaluation is done."""
        return self.is_evaluated and (step >= self.total_steps or self.is_exhausted)

    def flush(self) -> None:
        """Waits for the device and writes the metrics up to here."""
        with self.explained():
            self.monitor.flush()

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates and logs, unless a stop is requested: the next start makes up for that.

        With keep_best, saves this state if that of RUN/best has a higher loss.
        """
        if self.evaluation is None:
            return
        metrics = None
        if not self.stop.requested:
            with self.explained(), self.monitor.paused("eval"):
                metrics = self.evaluation(state.params, lambda: self.stop.requested)
        self.is_evaluated = metrics is not None
        if metrics is None:
            return
        self.monitor.evaluation(step, metrics)
        is_kept = self.best_weights is not None and metrics["loss"] < self.best_weights.loss
        if is_kept:
            self.save(step, state)
        self.best.add(metrics["loss"], step=step, checkpoint=self.saved)
        self._protect()
        if is_kept and self.best_weights and self.saved == step:
            with self.monitor.paused("checkpoint"):
                self.best_weights.keep(step, state, loss=metrics["loss"])

    def sample(self, step: int, state: TrainState) -> None:
        """Generates and logs the run's samples, unless a stop is requested."""
        if self.samples and not self.stop.requested:
            with self.explained():
                self.samples.add(step, state.params)

    def save(self, step: int, state: TrainState, *, at_end: bool = False, by_request: bool = False) -> None:
        """Saves a step once; while the loss is far above its best, only on request.

        Metrics reach the disk before the checkpoint does. Raises DivergedError if weights are not finite, UserError if
        devices hold different copies of them.
        """
        self.flush()
        if step == self.saved:
            return
        if at_end:
            with self.explained():
                self.monitor.watch.check(step)
        if self.monitor.watch.is_high and not by_request:
            return
        with self.monitor.paused("checkpoint"):
            if len(state.step.sharding.device_set) > 1:
                device_check.check_replicas(state.params)
            with self.explained():
                if names := not_finite(state.params):
                    raise DivergedError(f"the weights of step {step} are not finite ({listed(names)})")
            if not self.monitor.watch.is_high:
                self._good = step
                self._protect()
            self.checkpoints.save(step, state.parts())
        self.saved, self._saved_at = step, time.monotonic()

    def _time_is_up(self, step: int) -> bool:
        """Whether the newest checkpoint is older than `save_minutes`; equal on all processes."""
        if self.config.save_minutes is None or (jax.process_count() > 1 and step % self.config.log_steps):
            return False
        seconds = time.monotonic() - self._saved_at
        return (distributed.agreed(seconds) if jax.process_count() > 1 else seconds) > 60 * self.config.save_minutes

    def _protect(self) -> None:
        steps = self.checkpoints.protected.steps
        steps.clear()
        steps.update({self._good, self.best.step})

    def _advice(self) -> str:
        """Names the checkpoints to return to."""
        is_known = self.best.is_saved or self._kept
        return self._best_line() if is_known else f"the last good checkpoint is step {self._good}"

    def _best_line(self) -> str:
        """Names the checkpoint of the lowest evaluation loss, or the weights of a higher one that RUN/best has."""
        is_its_own = self.best.is_saved and self.best.step == self.best.measured_at
        return str(self.best) if is_its_own else self._kept or str(self.best)

    @property
    def _kept(self) -> str:
        return str(self.best_weights or "")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Adds the safe checkpoints and the settings to change to a DivergedError."""
        try:
            yield
        except DivergedError as error:
            self.checkpoints.wait()
            continuation = f"continues from step {self.saved}, and {self._advice()}"
            if not self.saved:
                continuation = "starts from the beginning, as nothing was saved"
            raise DivergedError(
                f"training has diverged and was stopped: {error}. Lower lr, lengthen warmup_steps, or, if these steps "
                "are good, raise the limit that they exceed (max_loss_rise, max_skipped_steps, max_loss_jump, "
                f"max_grad_norm_jump); the same command {continuation}"
            ) from None


def with_rollbacks(attempt: Callable[[BadStep | None], bool], position: DataPosition, config: RunConfig) -> bool:
    """Calls `attempt`, which trains from the newest checkpoint, again after each RollBackError, with its step.

    Raises DivergedError after `max_rollbacks` of a run.
    """
    bad: BadStep | None = None
    while True:
        try:
            return attempt(bad)
        except RollBackError as error:
            bad = error.bad
        if (rollbacks := position.spans[-1].rollbacks) >= config.max_rollbacks:
            raise DivergedError(
                f"training was stopped at a bad step, after {rollbacks} rollbacks (max_rollbacks): {bad}. "
                "Look at the batch, lower lr, or set on_bad_step to skip"
            )
