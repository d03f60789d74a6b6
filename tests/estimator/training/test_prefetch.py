"""Prefetching batches to the devices."""

from contextlib import closing

import jax
import numpy as np
import pytest
from conftest import one_device
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator.training.prefetch import AHEAD, Prefetcher


@pytest.mark.parametrize("max_steps", [1, 2])
def test_an_input_function_may_fill_its_array_again(tmp_path, max_steps):
    """On CPUs, JAX shares aligned memory, such as memory maps, with NumPy."""
    rows = np.memmap(tmp_path / "rows", np.int32, "w+", shape=(4, 16))

    def input_fn(step: int) -> dict[str, np.ndarray]:
        rows[:] = step
        return {"tokens": rows}

    calls = [(first, max_steps) for first in range(0, (AHEAD + 3) * max_steps, max_steps)]
    sharding = NamedSharding(Mesh(np.array(one_device()), ("data",)), PartitionSpec())
    sizes = {"accumulation": 2, "max_steps_per_call": max_steps}
    with closing(Prefetcher(input_fn, calls, sharding=sharding, **sizes)) as groups:
        batches = [group.batches["tokens"] for group in groups]
    assert all(batch.shape[-3:] == (2, 2, 16) for batch in batches)
    found = np.concatenate([np.asarray(batch).reshape(max_steps, -1) for batch in jax.block_until_ready(batches)])
    np.testing.assert_array_equal(found, np.repeat(np.arange(len(calls) * max_steps)[:, None], rows.size, axis=1))
