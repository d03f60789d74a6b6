"""Collects training metrics without blocking on the device."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from estimator.errors import DivergedError
from estimator.interrupts import STARTED
from estimator.system import malloc
from estimator.training.bad_steps import BadStep, RollBackError, reason
from estimator.training.data_position import DataPosition
from estimator.training.metrics_log import Lost, Record
from estimator.training.metrics_writers import Console, MetricsLog
from estimator.training.run_config import RunConfig

IN_FLIGHT = 2  # device calls in flight; more would only hold batches in memory
SMOOTHING_STEPS = 50  # averaging horizon of the loss, and how long the average may stay far above its best
SETTLING_STEPS = 10  # losses in the first average


class LossWatch:
    """Detects divergence and tolerates spikes.

    max_skipped: consecutive bad steps that count as divergence. max_rise: nats by which the average loss
    (over about SMOOTHING_STEPS) may exceed its best for that many steps; None disables this check.
    """

    def __init__(self, *, max_skipped: int, max_rise: float | None):
        self._max_skipped, self._max_rise = max_skipped, max_rise
        self._skipped = self._high = self._count = 0
        self._sum = 0.0
        self._best = math.inf

    @property
    def is_high(self) -> bool:
        """Whether the average loss is far above its best."""
        return self._high > 0

    def restore(self, step: int, loss: float, *, count: int) -> None:
        """Replays one logged record: the mean loss of `count` steps, which did not count as divergence."""
        for _ in range(min(count, 20 * SMOOTHING_STEPS)):
            self._high = min(self._high, SMOOTHING_STEPS - 2)
            self.add(step, loss)

    def add(self, step: int, loss: float, *, accepted: bool = True) -> None:
        """Adds one step's loss. Raises DivergedError if the run has diverged."""
        self._skipped = 0 if accepted else self._skipped + 1
        if self._skipped >= self._max_skipped:
            raise DivergedError(f"{self._skipped} updates in a row, up to step {step}, were not finite or outliers")
        if not math.isfinite(loss):
            return
        if self._max_rise is not None:  # caps single spikes
            loss = min(loss, self._best + 4 * self._max_rise)
        keep = 1 - 1 / SMOOTHING_STEPS
        self._count += 1
        self._sum = keep * self._sum + (1 - keep) * loss
        average = self._sum / (1 - keep**self._count)
        if self._count >= SETTLING_STEPS:
            self._best = min(self._best, average)
        is_high = self._max_rise is not None and average > self._best + self._max_rise
        self._high = self._high + 1 if is_high else 0
        if self._high >= SMOOTHING_STEPS:
            self.check(step)

    def check(self, step: int) -> None:
        """Raises DivergedError at the end of a run whose average loss is still high, or whose last steps were bad."""
        if self._skipped >= max(2, self._max_skipped // 2):
            raise DivergedError(f"the last {self._skipped} updates, up to step {step}, were not finite or outliers")
        if self._high >= SMOOTHING_STEPS // 2:
            raise DivergedError(
                f"the average loss has been more than {self._max_rise:g} above its best, {self._best:.4g}, for "
                f"{self._high} steps up to step {step}"
            )


class Evaluation(Protocol):
    """Parameters -> metrics with "loss", or None where `stop` ended it early."""

    def __call__(self, values: Any, stop: Callable[[], bool] = ..., /) -> dict[str, float] | None: ...


class BestEvaluation:
    """Lowest evaluation loss, and the checkpoint of that step or the newest one before it.

    lowest, lowest_at, waited: the lowest loss, its step, and the evaluated steps since, with or without a checkpoint.
    step, loss, measured_at: a checkpoint, and the loss and step of the evaluation that chose it. keeps: whether
    `keep_best` is on.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self._advice = "" if keeps else "; keep_best saves such weights"
        self.loss, self.step, self.measured_at = math.inf, 0, 0
        self.lowest, self.lowest_at, self.waited, self._newest = math.inf, 0, 0, -1

    def add(self, loss: float, *, step: int, checkpoint: int | None) -> None:
        self.waited += step != self._newest  # a command may evaluate a step again
        self._newest = step
        if loss < self.lowest:
            self.lowest, self.lowest_at, self.waited = loss, step, 0
        if checkpoint and loss < self.loss:
            self.loss, self.step, self.measured_at = loss, checkpoint, step

    @property
    def is_saved(self) -> bool:
        """Whether there is a checkpoint of the lowest loss, or one before it."""
        return self.step > 0 and self.loss <= self.lowest

    def __str__(self) -> str:
        if not self.is_saved:
            return (
                f"the lowest eval loss was {self.lowest:.4f} at step {self.lowest_at}, and no checkpoint was saved "
                f"up to there{self._advice}"
            )
        if self.step == self.measured_at:
            return f"the best checkpoint is step {self.step} (eval loss {self.loss:.4f})"
        return (
            f"the lowest eval loss was {self.loss:.4f} at step {self.measured_at}, and the newest checkpoint before it "
            f"is step {self.step}{self._advice}"
        )


class _Step(NamedTuple):
    """A step that is not logged yet. seconds, waited: its share of its call's time, and of that waited for input."""

    loss: float
    seconds: float
    waited: float


class TrainMonitor:
    """Turns the metrics of finished device calls into log and console records.

    The metrics of a call are read after IN_FLIGHT later calls were issued, so that reading them does not block. The
    steps of a call share its time equally.
    log, console: None except on process 0. watch: receives every loss. position: tokens and windows of each step.
    spec: an EstimatorSpec. peak_flops: of the devices, in FLOP/s; None if it is unknown.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        console: Console | None,
        *,
        config: RunConfig,
        spec: Any,
        peak_flops: float | None,
        watch: LossWatch,
        position: DataPosition,
    ):
        self.log, self.console = log, console
        self.watch, self.position = watch, position
        self._config, self._spec, self._peak_flops = config, spec, peak_flops
        self._in_flight: collections.deque[tuple[int, int, Any]] = collections.deque()
        self._steps: list[_Step] = []  # since the last record
        self._since = time.monotonic()  # of the first call that was not read yet
        self._waited = 0.0
        self._paused: dict[str, float] = collections.defaultdict(float)
        self._latest: Record = {}
        self.evaluated = ""
        self.seconds_per_step: float | None = None

    def add(self, step: int, count: int, metrics: Any) -> None:
        """Queues the metrics, still being computed, of the `count` steps ending with `step`: scalars or [count...]."""
        self._in_flight.append((step, count, metrics))
        while len(self._in_flight) > IN_FLIGHT:
            self._retire()

    def flush(self) -> None:
        """Waits for the device and writes the remaining records."""
        while self._in_flight:
            self._retire()
        if self.log:
            self.log.flush()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the context as waiting for input."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self, kind: str = "other") -> Iterator[None]:
        """Waits for the device, then counts the time inside the context as `kind` instead of training time.

        What happens inside may use the memory of the steps' temporary arrays.
        """
        self.flush()
        malloc.release()
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._since += seconds
            self._paused[f"{kind}_seconds"] += seconds

    def _pauses(self, *kinds: str) -> dict[str, float]:
        """Seconds paused since the last record, by kind: these kinds or all."""
        names = [f"{kind}_seconds" for kind in kinds] or list(self._paused)
        return {name: round(self._paused.pop(name), 3) for name in names if name in self._paused}

    def event(self, step: int, values: dict[str, Any]) -> None:
        """Logs a record of split "event"."""
        if self.log:
            record = {"step": step, "tokens": self.position.tokens_at(step), "split": "event", **values}
            self.log.event(record | {"time": round(time.time(), 3)})

    def note(self, text: str) -> None:
        """Shows a line."""
        if self.console:
            self.console.note(text)

    @property
    def status(self) -> str:
        """The newest train record in words."""
        if not (record := self._latest):
            return "no step has been logged yet (log_steps)"
        rate = f"{record['tokens_per_second']:,.0f} tokens/s"
        return f"step {record['step']}, loss {record['loss']:.4f}, lr {record['lr']:.3g}, {rate}"

    def start(self, step: int, *, total_steps: int, bad: BadStep | None = None) -> None:
        """Logs that training starts or continues after `step` of `total_steps`. bad: of a rollback."""
        lost = self.log.lost if self.log else None
        if lost and bad:  # with the steps since the last record (log_steps)
            lost = Lost(bad.step - step, round(lost.seconds + bad.seconds, 3))
        more: Record = {"lost_steps": lost.steps, "lost_seconds": lost.seconds} if lost and lost.steps else {}
        evaluation = {"evaluation": self.position.evaluation} if self.position.evaluation else {}
        seconds = round(time.monotonic() - STARTED, 3)
        start = {"event": "start", "total_steps": total_steps, "start_seconds": seconds}
        self.event(step, bad.record("rollback") | more if bad else start | more | evaluation)

    def stop(self, step: int, *, is_complete: bool) -> None:
        """Logs the end of this process's training. is_complete: whether it is the end of the run."""
        self.event(step, {"event": "stop", "is_complete": is_complete, **self._pauses()})
        if self.log:
            self.log.flush()

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        record = {
            "step": step,
            "tokens": self.position.tokens_at(step),
            "split": "eval",
            **metrics,
            **self._pauses("eval"),
            "time": round(time.time(), 3),
        }
        self.evaluated = f"eval loss {metrics['loss']:.4f}"
        if self.log:
            self.log.write(record)
        if self.console:
            self.console.evaluation(record)

    def _retire(self) -> None:
        last, count, metrics = self._in_flight.popleft()
        values = {name: np.atleast_1d(value)[:count] for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        seconds, waited = (now - self._since) / count, self._waited / count
        self._since, self._waited = now, 0.0
        for i, step in enumerate(range(last - count + 1, last + 1)):
            finite, accepted = bool(values["finite"][i]), bool(values["accepted"][i])
            loss, grad_norm = float(values["loss"][i]), float(values["grad_norm"][i])
            self._steps.append(_Step(loss, seconds, waited))
            if step % self._config.log_steps == 0:
                self._write(step, lr=float(values["lr"][i]), grad_norm=grad_norm)
            if not accepted:
                self._bad_step(step, loss, grad_norm, finite=finite)
            self.watch.add(step, loss, accepted=accepted)

    def _bad_step(self, step: int, loss: float, grad_norm: float, *, finite: bool) -> None:
        """Logs a step whose update was left out; raises the error that on_bad_step asks for."""
        why = reason(loss=loss, grad_norm=grad_norm, finite=finite, bounds=self._config.bounds)
        seconds = sum(each.seconds for each in self._steps) + sum(self._paused.values())
        bad = BadStep(step, why, loss, grad_norm, self.position.windows_of(step), seconds)
        # With loss scaling, gradients overflow now and then by design, which calls for no more than a skipped update.
        is_overflow = self._spec.loss_scaling and not finite and math.isfinite(loss)
        if self._config.on_bad_step == "rollback" and not is_overflow:
            raise RollBackError(bad)
        self.event(step, bad.record("skipped"))
        if self.console:
            self.console.note(f"{bad}; the update was skipped")
        if self._config.on_bad_step == "stop" and not is_overflow:
            raise DivergedError(f"{bad}, and on_bad_step is stop")

    def _write(self, step: int, *, lr: float, grad_norm: float) -> None:
        losses, times, waits = zip(*self._steps, strict=True)
        seconds = max(sum(times), 1e-9)
        self.seconds_per_step = seconds / len(losses)
        rate = self._config.train_batch_size * self._spec.tokens_per_example / self.seconds_per_step
        record = {
            "step": step,
            "tokens": self.position.tokens_at(step),
            "split": "train",
            "loss": float(np.mean(losses)),
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": rate,
            "mfu": self._peak_flops and rate * self._spec.flops_per_token / self._peak_flops,
            "step_seconds": self.seconds_per_step,
            "input_wait": min(1.0, sum(waits) / seconds),
            "flops": self.position.tokens_at(step) * self._spec.flops_per_token or None,
            **self._pauses(),
            "time": round(time.time(), 3),
        }
        self._steps, self._latest = [], record
        if self.log:
            self.log.write(record)
        if self.console:
            self.console.train(record)
