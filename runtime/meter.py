"""What a training run measures of itself, without making the device wait."""

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from runtime.errors import UserError
from runtime.metrics import Console, MetricsLog

IN_FLIGHT = 2  # device calls that may wait their turn; more would only hold batches in memory
MOST_SKIPPED = 20  # updates in a row that were not finite before a run is given up


class Meter:
    """Turns the metrics of finished device calls into records for the log and the console.

    A call's metrics are read when the next but one has been issued: by then they are there. log, console: None where
    another process has them.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        console: Console | None,
        *,
        log_steps: int,
        tokens_per_step: int,
        flops_per_token: float,
        peak_flops: float | None,
    ):
        self._log, self._console = log, console
        self._log_steps, self._tokens_per_step = log_steps, tokens_per_step
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._in_flight: collections.deque[tuple[int, int, Any]] = collections.deque()
        self._losses: list[float] = []
        self._skipped = 0
        self._since = time.monotonic()
        self._waited = 0.0
        self.seconds_per_step: float | None = None

    def add(self, step: int, count: int, metrics: Any) -> None:
        """Metrics of the `count` steps that end with `step`, still being computed: scalars, or arrays [count...]."""
        self._in_flight.append((step, count, metrics))
        while len(self._in_flight) > IN_FLIGHT:
            self._retire()

    def flush(self) -> None:
        """Waits for the device and writes what is left."""
        while self._in_flight:
            self._retire()
        if self._log:
            self._log.flush()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as waiting for input."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time within, after the device has finished its steps, is not training time."""
        self.flush()
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        record = {
            "step": step,
            "tokens": step * self._tokens_per_step,
            "split": "eval",
            **metrics,
            "time": round(time.time(), 3),
        }
        if self._log:
            self._log.write(record)
        if self._console:
            self._console.evaluation(record)

    def _retire(self) -> None:
        last, count, metrics = self._in_flight.popleft()
        values = {name: np.atleast_1d(value)[:count] for name, value in jax.device_get(metrics).items()}
        for i, step in enumerate(range(last - count + 1, last + 1)):
            self._check_finite(step, bool(values["finite"][i]))
            self._losses.append(float(values["loss"][i]))
            if step % self._log_steps == 0:
                self._write(step, lr=float(values["lr"][i]), grad_norm=float(values["grad_norm"][i]))

    def _check_finite(self, step: int, finite: bool) -> None:
        self._skipped = 0 if finite else self._skipped + 1
        if not finite and self._console:
            self._console.note(f"step {step}: loss or gradient is not finite; the update was left out")
        if self._skipped >= MOST_SKIPPED:
            raise UserError(
                f"{self._skipped} updates in a row, up to step {step}, were not finite, so training was stopped. "
                "Lower lr, lengthen warmup_steps, or set grad_clip to 1.0; the run continues from its last checkpoint"
            )

    def _write(self, step: int, *, lr: float, grad_norm: float) -> None:
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-9), now
        self.seconds_per_step = seconds / len(self._losses)
        rate = self._tokens_per_step / self.seconds_per_step
        record = {
            "step": step,
            "tokens": step * self._tokens_per_step,
            "split": "train",
            "loss": float(np.mean(self._losses)),
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": rate,
            "mfu": self._peak_flops and rate * self._flops_per_token / self._peak_flops,
            "step_seconds": self.seconds_per_step,
            "input_wait": min(1.0, self._waited / seconds),
            "time": round(time.time(), 3),
        }
        self._losses, self._waited = [], 0.0
        if self._log:
            self._log.write(record)
        if self._console:
            self._console.train(record)
