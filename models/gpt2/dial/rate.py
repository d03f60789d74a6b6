"""Measures how fast this machine trains a model: compiles its training step and times some on the run's own data."""

import statistics
import time
from contextlib import closing
from typing import NamedTuple

import jax
import jax.numpy as jnp

from estimator.data.batches import Batches
from estimator.data.stages import Data
from estimator.parallel import mesh
from estimator.setup import Setup
from estimator.training.initial_state import optional_parts
from estimator.training.prefetch import Prefetcher, StepPlan
from estimator.training.preflight import require_memory

LEAST, MOST = 3, 65  # device calls: the first one compiles, and the next ones are up to a third slower than later ones


class Rate(NamedTuple):
    """step: median seconds of an optimizer step of `tokens`, in the second half of those that were measured.
    compilation: seconds until the first one was done.
    """

    step: float
    tokens: int
    compilation: float


def measure(setup: Setup, data: Data, *, most: float) -> Rate:
    """Trains zero weights for some steps by the program that a run of `setup` uses; the folder is not touched.

    most: seconds after the first step, unless LEAST calls take longer. Raises TooLargeError if the model does not fit
    into memory.
    """
    start = time.perf_counter()
    estimator = setup.estimator(total_steps=1000)
    plan = estimator.plan(total_steps=1000, first_step=0)
    require_memory(plan)
    state = jax.tree.map(lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), plan.state)
    # Zeros there would make each step a bad one, whose update is left out.
    state = state._replace(**optional_parts(plan.spec, estimator.mesh, estimator.config))
    train, dims = estimator.program(plan.spec, plan.accumulation, state)
    batches = Batches(data.train, batch_size=setup.run.train_batch_size)
    per_call = setup.run.iterations
    calls = StepPlan(0, MOST * per_call, max_steps_per_call=per_call, stops=())
    calls.seconds_per_step = 1e-6  # full calls from the first on
    groups = Prefetcher(
        batches,
        calls,
        sharding=mesh.split_dim(estimator.mesh, dims),
        accumulation=plan.accumulation,
        max_steps_per_call=per_call,
    )
    seconds: list[float] = []
    with closing(groups):
        for group in groups:
            state, metrics = train(state, group.batches, group.count)
            jax.block_until_ready(metrics)
            now = time.perf_counter()
            seconds.append((now - start) / (1 if not seconds else group.count))
            start = now
            if len(seconds) >= LEAST and sum(seconds[1:]) * per_call > most:
                break
    return Rate(statistics.median(seconds[1 + len(seconds) // 2 :]), plan.tokens_per_step, seconds[0])
