"""float16 with dynamic loss scaling: close to float32, robust to overflow, and bit-identical after a restart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.meshes import NO_DROPOUT
from helpers.tiny_gpt2 import TINY

from estimator.estimator import Estimator
from estimator.training import loss_scale
from estimator.training.checkpoint_reader import restore
from estimator.training.initial_state import state_template
from estimator.training.loss_scale import LossScale
from estimator.training.run_config import RunConfig
from estimator.training.train_step import TrainState
from models.gpt2 import Config, Params, model_fn
from optimizers import OptimizerConfig

BATCH, N_CTX = 8, TINY["n_ctx"]


def batch(step: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(step).integers(0, TINY["n_vocab"] // 4, (BATCH, N_CTX + 1))
    return {"tokens": tokens.astype(np.int32)}


def trained(folder, *, steps=12, precision="float16", devices=1, **run) -> tuple[list, TrainState]:
    """Returns the weights after training, and the saved state."""
    config = Config(**(TINY | NO_DROPOUT | {"precision": precision}))
    keys = {"model_path": str(folder), "train_batch_size": BATCH, "max_steps": steps, "save_minutes": None} | run
    estimator = Estimator(
        model_fn,
        Params(config, OptimizerConfig(opt_name="sgd", lr=0.1, weight_decay=0.0), 12),
        RunConfig(**keys),
        devices=jax.devices()[:devices],
    )
    assert estimator.train(batch, total_steps=steps)
    template = state_template(estimator.spec("train"), estimator.mesh, estimator.config)
    state = TrainState(**restore(estimator.checkpoints.open(), template.parts()))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)], state


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"))


def test_the_scale_halves_after_an_overflow_and_doubles_after_many_finite_steps(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    scale, seen = LossScale.initial(), []
    for finite in (False, True, True, True, True, False):
        scale = scale.after(jnp.bool_(finite))
        seen.append(float(scale.scale) / loss_scale.INITIAL)
    assert seen == [0.5, 0.5, 0.5, 1, 1, 0.5]
    for _ in range(100):
        scale = scale.after(jnp.bool_(False))
    assert float(scale.scale) == loss_scale.SMALLEST
    assert float(LossScale(jnp.float32(loss_scale.LARGEST), jnp.int32(10)).after(True).scale) == loss_scale.LARGEST


def test_training_is_near_float32_and_its_state_is_saved(whole, tmp_path):
    exact, _ = trained(tmp_path, precision="float32")
    rough, state = whole
    assert float(state.loss_scale.scale) == loss_scale.INITIAL
    assert int(state.loss_scale.finite_steps) == 12
    for a, b in zip(exact, rough, strict=True):
        assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(a) + 1e-3


def test_a_scale_that_overflows_is_recovered_from_without_harm(tmp_path, monkeypatch):
    """The first updates are skipped, and training then continues normally."""
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**24)
    values, state = trained(tmp_path, steps=24)
    assert float(state.loss_scale.scale) < 2.0**24
    assert all(np.isfinite(leaf).all() for leaf in values)
    assert int(state.loss_scale.finite_steps) > 5


@pytest.mark.parametrize("options", [{"micro_batch_size": 2}, {"iterations": 4}, {"devices": 4}])
def test_parts_groups_and_devices_change_little(whole, tmp_path, options):
    alone, state = whole
    other, same = trained(tmp_path, **options)
    assert float(state.loss_scale.scale) == float(same.loss_scale.scale)
    for a, b in zip(alone, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2)


def test_a_restart_has_the_bits_of_one_run(whole, tmp_path):
    trained(tmp_path, steps=5)
    cut, state = trained(tmp_path)
    assert int(state.loss_scale.finite_steps) == 12
    for a, b in zip(whole[0], cut, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_continues_in_another_precision(tmp_path):
    trained(tmp_path, steps=4, precision="float32")
    _, state = trained(tmp_path, steps=8)
    assert int(state.loss_scale.finite_steps) == 4
    _, state = trained(tmp_path, steps=12, precision="float32")
    assert state.loss_scale is None
