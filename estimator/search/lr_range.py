"""A learning-rate range test: the loss while the rate grows exponentially (Smith 2017): `--lr_range_test`."""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimator import storage
from estimator.data.batches import Batches
from estimator.errors import UserError, require_output
from estimator.estimator import Estimator
from estimator.parallel import agreement, distributed, mesh
from estimator.plots.figure import THEMES, require_matplotlib, style
from estimator.search.arguments import RANGE_STEPS
from estimator.setup import Setup
from estimator.training.initial_state import initial_state
from estimator.training.prefetch import Prefetcher, StepPlan
from estimator.training.train_step import Schedule

RECORDS, FIGURE = "lr_range.jsonl", "lr_range.png"
LOWEST, HIGHEST = 1e-6, 10.0
FEWEST_STEPS, MOST_STEPS = 20, 1_000_000
MAX_RISE = 2.0  # nats above the lowest smoothed loss that end the test
MARGIN = 10.0  # by which the suggestion is below the rate of the lowest loss
SHOWN = 20  # lines on the progress
HORIZON = 0.04  # of the test's steps that the loss is smoothed over


class RangeStep(NamedTuple):
    """A step of the test. smoothed: running mean of the losses."""

    step: int
    lr: float
    loss: float
    smoothed: float


def lr_range_test(setup: Setup, steps: int) -> None:
    """Writes lr_range.jsonl and lr_range.png into the run's folder and prints a suggestion. A collective.

    Begins with the weights that a new run would begin with; saves no checkpoint. Raises UserError if no rate lowers
    the loss.
    """
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        raise UserError(
            f"--lr_range_test {steps}: write from {FEWEST_STEPS} to {MOST_STEPS:,} steps; the default is {RANGE_STEPS}"
        )
    require_matplotlib()
    step = setup.newest_step()
    is_other_vocabulary = agreement.from_first(lambda: setup.takes_other_vocabulary(step))
    if not is_other_vocabulary:
        setup.note_own_vocabulary(partial(print, file=sys.stderr))
    data = setup.open_data(clean=is_other_vocabulary)
    estimator = setup.estimator(total_steps=steps, clean=is_other_vocabulary)
    estimator.config = estimator.config.model_copy(update={"iterations": 1})  # the test may end after any step
    host, hosts = estimator.process_slice
    size = setup.run.train_batch_size
    batches = Batches(
        data.train, batch_size=size, host_index=host, host_count=hosts, window_at=lambda step: step * size
    )
    if distributed.is_first():
        rates = f"learning rates from {LOWEST:g} to {HIGHEST:g}"
        print(f"{rates}; lr, schedule and warmup_steps have no effect on the test", file=sys.stderr)
    taken: list[RangeStep] = []
    for each in _smoothed(_losses(estimator, batches, steps), horizon=max(2.0, HORIZON * steps)):
        taken.append(each)
        if distributed.is_first() and each.step % max(1, steps // SHOWN) == 0:
            print(f"step {each.step:,}/{steps:,}  lr {each.lr:.2e}  loss {each.smoothed:.4f}", file=sys.stderr)
        lowest = min(past.smoothed for past in taken)
        if not math.isfinite(each.loss) or (len(taken) > FEWEST_STEPS and each.smoothed > lowest + MAX_RISE):
            break
    if not distributed.is_first():
        return
    finite = [{key: value if math.isfinite(value) else None for key, value in each._asdict().items()} for each in taken]
    _write(setup.folder, RECORDS, "".join(json.dumps(each) + "\n" for each in finite).encode())
    best = suggestion(taken)
    _write(setup.folder, FIGURE, draw(taken, best))
    print(
        f"suggested lr: {best:.2g} (a {MARGIN:g}th of the rate at which the loss is lowest); "
        f"see {storage.join(setup.folder, FIGURE)}"
    )
    require_output()


def suggestion(taken: list[RangeStep]) -> float:
    """A tenth of the rate with the lowest smoothed loss, or UserError if the loss does not fall."""
    known = [each for each in taken if math.isfinite(each.smoothed)]
    lowest = min(known, key=lambda each: each.smoothed, default=None)
    if lowest is None or lowest.smoothed >= known[0].smoothed - 0.01:
        raise UserError("the loss falls at no learning rate of the test; look at the data, or at init_from")
    return lowest.lr / MARGIN


def _losses(estimator: Estimator, batches: Callable[[int], dict[str, np.ndarray]], steps: int) -> Iterator[RangeStep]:
    """Trains with a growing rate and yields each step, its loss not yet smoothed."""

    spec = estimator.spec("train")
    accumulation = estimator.accumulation(spec)
    state = initial_state(spec, estimator.mesh, estimator.config, None, lambda text: None)
    first = int(state.step)  # of converted checkpoints, whose optimizer state has counted as many

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        share = (jnp.asarray(step, jnp.float32) - first) / (steps - 1)
        return LOWEST * jnp.exp(share * math.log(HIGHEST / LOWEST))

    spec = _with_schedule(spec, rate)
    train, dims = estimator.program(spec, accumulation, state)
    calls = StepPlan(0, steps, max_steps_per_call=1, stops=())
    sharding = mesh.split_dim(estimator.mesh, dims)
    groups = Prefetcher(batches, calls, sharding=sharding, accumulation=accumulation, max_steps_per_call=1)
    with closing(groups):
        for group in groups:
            state, metrics = train(state, group.batches, group.count)
            found = jax.device_get(metrics)
            yield RangeStep(group.first_step + 1, float(found["lr"]), float(found["loss"]), math.nan)


def _with_schedule(spec: Any, schedule: Schedule) -> Any:
    assert spec.optimizer, "the model_fn gave no optimizer"
    return spec._replace(optimizer=spec.optimizer._replace(learning_rate=schedule))


def _smoothed(steps: Iterator[RangeStep], *, horizon: float) -> Iterator[RangeStep]:
    """Adds the running mean over about `horizon` steps, without the bias of its start."""
    keep, total = 1 - 1 / horizon, 0.0
    for count, each in enumerate(steps, start=1):
        total = keep * total + (1 - keep) * each.loss
        yield each._replace(smoothed=total / (1 - keep**count))


def draw(taken: list[RangeStep], best: float) -> bytes:
    """The figure as PNG: loss against the rate, with the suggestion."""
    from matplotlib.figure import Figure

    theme, file = THEMES["light"], io.BytesIO()
    rates, losses, smoothed = (np.array([getattr(each, key) for each in taken]) for key in ("lr", "loss", "smoothed"))
    low, high = np.nanmin(losses), losses[: max(1, len(losses) // 4)].max()
    with style(theme):
        canvas = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = canvas.subplots()
        axes.plot(rates, losses, color=theme.series[0], linewidth=0.8, alpha=0.35)
        axes.plot(rates, smoothed, color=theme.series[0], linewidth=1.8, label="loss, smoothed")
        axes.axvline(best, color=theme.series[1], linestyle="--", linewidth=1.5, label=f"suggested lr {best:.2g}")
        axes.set_xscale("log")
        axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.35 * (high - low) + 0.01)
        axes.set_xlabel("learning rate")
        axes.set_title("loss (nats per token) while the learning rate grows")
        axes.legend(loc="upper left")
        canvas.savefig(file, dpi=160, format="png")
    return file.getvalue()


def _write(folder: str, name: str, data: bytes) -> None:
    if not storage.is_remote(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    storage.write_bytes_atomic(storage.join(folder, name), data)
