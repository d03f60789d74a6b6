"""The Estimator with a linear regression, because it does not depend on models or text."""

import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import one_device
from helpers.runs import losses, perplexity, records

from estimator.errors import DivergedError, UserError
from estimator.estimator import Estimator, EstimatorSpec
from estimator.parallel.param_spec import ParamSpec
from estimator.training import run_lock, session
from estimator.training.checkpoints import not_finite
from estimator.training.run_config import RunConfig
from estimator.training.session import TrainingSession
from estimator.training.train_step import Optimizer

TRUTH = np.asarray([1.0, -2.0, 3.0], np.float32)


def loss(params: Any, batch: Any, key: Any):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return (batch["weights"] * error**2).sum(), batch["weights"].sum()


def model_fn(learning_rate: float, mode: str) -> EstimatorSpec:
    specs = {
        "w": ParamSpec(shape=(3,), axes=("inputs",), std=1.0),
        "b": ParamSpec(shape=(), axes=()),
    }
    transform = optax.adam(learning_rate)
    return EstimatorSpec(
        parameters=specs,
        loss=loss,
        optimizer=Optimizer(lambda schedule: transform, lambda step: jnp.float32(learning_rate), None),
        predictor=lambda params, keeps_params: lambda x: x @ params["w"] + params["b"],
    )


def input_fn(step: int) -> dict[str, np.ndarray]:
    """Returns rows of unequal weight, so that a mean of means would be wrong."""
    draw = np.random.default_rng(step)
    x = draw.normal(size=(8, 3)).astype(np.float32)
    weights = draw.integers(0, 5, 8).astype(np.float32) + 0.5
    return {"x": x, "y": x @ TRUTH + np.float32(0.5), "weights": weights}


def estimator(folder, *, devices=None, rate: float = 0.1, **changes) -> Estimator:
    values = {"train_batch_size": 8, "max_steps": 40, "log_steps": 1, "train_steps": 10} | changes
    config = RunConfig(model_path=str(folder), **values)
    return Estimator(model_fn, rate, config, devices=devices or one_device())


def train(folder, steps: int = 40, source=input_fn, devices=None, **changes):
    run = estimator(folder, devices=devices, **changes)
    assert run.train(source, total_steps=steps)
    return run.restore()[1]


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_learns_and_predicts(tmp_path):
    train(tmp_path, 400)
    predict = estimator(tmp_path).predictor()
    np.testing.assert_allclose(predict(jnp.eye(3)), TRUTH + 0.5, atol=1e-2)


def test_training_equals_a_plain_loop(tmp_path):
    run = estimator(tmp_path)
    spec = run.spec("train")
    from estimator.parallel import param_spec as parameters

    params = parameters.initialize(spec.parameters, jax.random.key(0))
    slots = spec.optimizer.transform.init(params)
    expected = []
    for step in range(20):
        batch = input_fn(step)

        def mean(params, batch=batch):
            total, weight = loss(params, batch, None)
            return total / weight

        value, gradient = jax.value_and_grad(mean)(params)
        updates, slots = spec.optimizer.transform.update(gradient, slots, params)
        params = optax.apply_updates(params, updates)
        expected.append(float(value))
    run.train(input_fn, total_steps=20)
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 21))


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_is_exact_for_unequal_weights(tmp_path, micro):
    train(tmp_path / "whole", micro_batch_size=8)
    train(tmp_path / "cut", micro_batch_size=micro)
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-5)


def test_eight_devices_give_the_losses_of_one(tmp_path):
    assert len(jax.devices()) == 8
    train(tmp_path / "one")
    train(tmp_path / "eight", devices=jax.devices())
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-5)


def test_the_choice_of_a_mesh_is_told_once(tmp_path, capsys):
    """By the Estimator that trains, not by the one that checks the initial weights before."""
    estimator(tmp_path / "run", devices=jax.devices()).check_initial()
    train(tmp_path / "run", 2, devices=jax.devices())
    assert capsys.readouterr().err.count("mesh: data") == 1


def test_several_steps_a_call_are_the_same_steps(tmp_path):
    one = train(tmp_path / "one", save_steps=7)
    several = train(tmp_path / "several", iterations=5, save_steps=7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), several, one)
    np.testing.assert_allclose(losses(tmp_path / "several"), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.parametrize("iterations", [1, 5])
def test_a_run_in_pieces_is_bit_identical_to_one_in_whole(tmp_path, iterations):
    whole = train(tmp_path / "whole", iterations=iterations)
    for steps in (3, 17, 40):
        pieces = train(tmp_path / "pieces", steps, iterations=iterations)
    assert_identical(pieces, whole)
    assert losses(tmp_path / "pieces") == losses(tmp_path / "whole")


def test_a_signal_saves_and_the_run_continues_bit_identically(tmp_path):
    whole = train(tmp_path / "whole")

    def interrupted(step: int):
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return input_fn(step)

    run = estimator(tmp_path / "cut")
    assert not run.train(interrupted, total_steps=40)
    stopped_at = run.latest_step()
    assert stopped_at is not None
    assert stopped_at < 40
    assert_identical(train(tmp_path / "cut"), whole)
    assert [record["step"] for record in records(tmp_path / "cut")] == list(range(1, 41))


def test_a_signal_before_the_first_step_names_no_checkpoint_that_is_missing(tmp_path, monkeypatch, capsys):
    begin = TrainingSession.begin

    def stopped(*arguments):
        begin(*arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSession, "begin", stopped)
        assert not estimator(tmp_path).train(input_fn, total_steps=4)
        assert "SIGTERM: no step is trained yet; the same command continues" in capsys.readouterr().err
    train(tmp_path, 4)
    monkeypatch.setattr(TrainingSession, "begin", stopped)
    assert not estimator(tmp_path).train(input_fn, total_steps=8)
    assert "SIGTERM: saved at step 4; the same command continues from there" in capsys.readouterr().err


def test_updates_that_are_not_finite_are_left_out(tmp_path):
    def poisoned(step: int):
        batch = input_fn(step)
        return batch | {"y": batch["y"] * (np.nan if step in (5, 6) else 1)}

    before = train(tmp_path, 5, source=poisoned)
    assert_identical(train(tmp_path, 7, source=poisoned), before)
    after = train(tmp_path, 10, source=poisoned)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert np.abs(after["w"] - before["w"]).max() > 0.01
    assert losses(tmp_path)[5] is None  # JSON cannot represent NaN


def test_a_run_that_is_lost_stops_with_advice(tmp_path):
    def poisoned(step: int):
        return input_fn(step) | {"y": np.full(8, np.inf, np.float32)}

    with pytest.raises(UserError, match=r"not finite.*Lower lr.*starts from the beginning, as nothing was saved"):
        train(tmp_path, 40, source=poisoned)


def test_evaluation_weighs_every_target_once(tmp_path):
    run = estimator(tmp_path)
    batches = [input_fn(step) for step in (100, 101)]
    params = {"w": jnp.asarray([0.3, 0.1, -1.0]), "b": jnp.float32(0.2)}
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    total, weight = loss(params, joined, None)
    metrics = run.evaluate(lambda: batches, describe=lambda value: {"twice": 2 * value})(params)
    assert metrics["loss"] == pytest.approx(float(total / weight), rel=1e-6)
    assert metrics["twice"] == 2 * metrics["loss"]


@pytest.mark.parametrize("micro", [1, 2, None])
def test_evaluation_batches_need_not_divide(tmp_path, micro):
    batch = {name: rows[:6] for name, rows in input_fn(100).items()}
    params = {"w": jnp.asarray([0.3, 0.1, -1.0]), "b": jnp.float32(0.2)}
    total, weight = loss(params, batch, None)
    for devices in (one_device(), jax.devices()):
        metrics = estimator(tmp_path, devices=devices, micro_batch_size=micro).evaluate(lambda: [batch])(params)
        assert metrics["loss"] == pytest.approx(float(total / weight), rel=1e-6)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    with run_lock.locked(tmp_path), pytest.raises(UserError, match="another process is training"):
        train(tmp_path)


def test_a_reader_leaves_an_unfinished_checkpoint_alone(tmp_path):
    train(tmp_path, 2)
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    unfinished.mkdir()
    estimator(tmp_path).restore()
    assert unfinished.exists()
    train(tmp_path, 4)
    assert not unfinished.exists()


def test_chosen_checkpoints_are_made_without_save_steps(tmp_path):
    train(tmp_path, 10, keep_every_steps=4, keep_checkpoints=1)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 8, 10]


def test_evaluations_come_every_train_steps_and_at_the_end(tmp_path):
    run = estimator(tmp_path)
    run.train(input_fn, total_steps=25, evaluation=run.evaluate(lambda: [input_fn(100)], describe=perplexity))
    assert [record["step"] for record in records(tmp_path, "eval")] == [10, 20, 25]


def test_an_error_of_the_input_ends_the_run_and_loses_nothing(tmp_path):
    def broken(step: int):
        if step == 5:
            raise UserError("shard 3 is gone")
        return input_fn(step)

    with pytest.raises(UserError, match="shard 3 is gone"):
        train(tmp_path, 10, source=broken)
    assert estimator(tmp_path).latest_step() == 5
    assert_identical(train(tmp_path, 10), train(tmp_path / "whole", 10))


def test_old_checkpoints_go_and_chosen_ones_stay(tmp_path):
    train(tmp_path, 40, save_steps=4, keep_checkpoints=2, keep_every_steps=12)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [12, 24, 36, 40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 3}, "micro_batch_size: 3 does not divide.*write one of 1, 2, 4, 8"),
        ({"train_batch_size": 6, "devices": "all"}, "6 sequences cannot be divided among 8 devices; write 8$"),
    ],
)
def test_batches_that_do_not_divide_are_refused(tmp_path, changes, message):
    devices = jax.devices() if changes.pop("devices", None) else None
    with pytest.raises(UserError, match=message):
        train(tmp_path, devices=devices, **changes)


def test_nothing_to_evaluate_yet_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint yet"):
        estimator(tmp_path / "none").restore()
    assert not (tmp_path / "none").exists()


def test_a_damaged_checkpoint_is_refused_with_the_fix(tmp_path):
    train(tmp_path, 20, save_steps=10)
    big = max(
        (tmp_path / "checkpoints" / "20").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0
    )
    data = bytearray(big.read_bytes())
    for i in range(0, len(data), 50):
        data[i] ^= 0x10
    big.write_bytes(data)
    with pytest.raises(UserError, match=r"checkpoints/20.*move this folder out of the run to continue from step 10"):
        train(tmp_path, 30)


def test_a_checkpoint_that_was_renamed_is_refused_with_the_fix(tmp_path):
    train(tmp_path, 10)
    (tmp_path / "checkpoints" / "10").rename(tmp_path / "checkpoints" / "15")
    fault = "checkpoints/15 was renamed: it holds step 10; give it its name back, or, if step 10 is there too, move"
    for act in (lambda: train(tmp_path, 20), lambda: estimator(tmp_path).restore()):
        with pytest.raises(UserError, match=fault):
            act()
    (tmp_path / "checkpoints" / "15").rename(tmp_path / "checkpoints" / "10")
    assert train(tmp_path, 20)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path, 10)

    def wider(rate: float, mode: str) -> EstimatorSpec:
        spec = model_fn(rate, mode)
        return spec._replace(parameters=spec.parameters | {"w": ParamSpec(shape=(4,), axes=("inputs",))})

    run = Estimator(wider, 0.1, estimator(tmp_path).config, devices=one_device())
    with pytest.raises(UserError, match=r"params/w: saved \(3,\), here \(4,\)"):
        run.train(input_fn, total_steps=20)


def poisoned(*, first: int, scale: float):
    """Scales the targets from step `first` on, so that the loss rises far above its best and stays there."""

    def source(step: int):
        batch = input_fn(step)
        return batch | {"y": batch["y"] * (scale if step >= first else 1)}

    return source


def test_a_loss_that_stays_far_above_its_best_stops_the_run_and_good_checkpoints_stay(tmp_path):
    changes = {"save_steps": 5, "keep_checkpoints": 1}
    run = estimator(tmp_path, **changes)
    evaluation = run.evaluate(lambda: [input_fn(100)])
    with pytest.raises(
        DivergedError,
        match=r"above its best.*continues from step (20|25).*(best checkpoint is|newest checkpoint before it is) step",
    ) as e:
        run.train(poisoned(first=20, scale=1e3), total_steps=400, evaluation=evaluation)
    assert e.value.code == 3
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept
    assert max(kept) <= 25
    assert np.isfinite(run.restore()[1]["w"]).all()


def test_spikes_and_null_do_not_stop_a_run(tmp_path):
    def spikes(step: int):
        batch = input_fn(step)
        return batch | {"y": batch["y"] * (100 if step % 60 == 30 else 1)}

    train(tmp_path / "spikes", 150, source=spikes, rate=0.01)
    train(tmp_path / "null", 120, source=poisoned(first=20, scale=1e3), max_loss_rise=None)


def test_the_best_checkpoint_by_evaluation_stays_also_after_a_resume(tmp_path):
    values = iter([3.0, 1.0, 2.0, 2.5, 2.7, 2.9])

    def evaluation(params, stop):
        return {"loss": next(values)}

    for steps in (30, 60):
        run = estimator(tmp_path, save_steps=10, keep_checkpoints=1)
        run.train(input_fn, total_steps=steps, evaluation=evaluation)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [20, 60]


def test_weights_that_are_not_finite_are_neither_saved_nor_used(tmp_path, monkeypatch):
    run = estimator(tmp_path, rate=float("inf"), save_steps=1)
    with pytest.raises(DivergedError, match="weights of step 1 are not finite"):
        run.train(input_fn, total_steps=10)
    assert run.latest_step() is None
    monkeypatch.setattr(session, "not_finite", lambda values: [])  # simulate versions without this check
    with pytest.raises(DivergedError):
        estimator(tmp_path, rate=float("inf"), save_steps=1).train(input_fn, total_steps=40)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"the weights have diverged.*earlier checkpoint"):
        run.restore()
    with pytest.raises(UserError, match="the weights have diverged"):
        run.predictor()


def test_not_finite_names_arrays_on_one_device_and_on_many():
    good, bad = jnp.full((4,), 3e38), jnp.asarray([1.0, jnp.inf, -jnp.inf])
    assert not_finite({"a": {"good": good, "bad": bad}, "nan": jnp.full((), jnp.nan)}) == ["a/bad", "nan"]


def test_a_stop_during_an_evaluation_leaves_it_out_and_the_resumed_run_makes_up_for_it(tmp_path):
    class Batches:
        """Yields batches forever and sends a stop signal; waiting for the last batch would never end."""

        def __call__(self):
            while True:
                yield input_fn(100)
                os.kill(os.getpid(), signal.SIGTERM)

    expected = estimator(tmp_path / "whole")
    expected.train(input_fn, total_steps=20, evaluation=expected.evaluate(lambda: [input_fn(100)]))
    for steps in (10, 20):
        run = estimator(tmp_path / "cut", save_steps=10)
        assert not run.train(input_fn, total_steps=steps, evaluation=run.evaluate(Batches()))
        assert run.latest_step() == 10
        assert [record["step"] for record in records(tmp_path / "cut", "eval")] == []
    run = estimator(tmp_path / "cut")
    assert run.train(input_fn, total_steps=20, evaluation=run.evaluate(lambda: [input_fn(100)]))
    for split in ("train", "eval"):
        whole, cut = (
            [(record["step"], record["loss"]) for record in records(tmp_path / name, split)]
            for name in ("whole", "cut")
        )
        assert cut == whole


def test_an_evaluation_at_the_end_that_was_stopped_is_made_up_for(tmp_path):
    def stopped(params, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()

    assert not estimator(tmp_path).train(input_fn, total_steps=10, evaluation=stopped)
    run = estimator(tmp_path)
    for _ in range(2):
        assert run.train(input_fn, total_steps=10, evaluation=run.evaluate(lambda: [input_fn(100)]))
    assert [record["step"] for record in records(tmp_path, "eval")] == [10]
