"""Steps with non-finite values or outliers: skip, stop, and roll back, with exact results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_device
from helpers.runs import losses, records

from estimator.errors import DivergedError, UserError
from estimator.estimator import Estimator
from estimator.training import bad_steps
from estimator.training.bad_steps import OutlierBounds, RecentSteps
from estimator.training.data_position import DataPosition, DataSpan
from estimator.training.monitor import LossWatch
from estimator.training.progress import resume
from estimator.training.run_config import RunConfig
from tests.estimator.test_estimator import assert_identical, input_fn, model_fn

BATCH = 8
DATA = {"windows_per_epoch": 800, "data_seed": 0}
BOUNDS = {"max_loss_jump": 50.0, "max_grad_norm_jump": 100.0}
SPIKE = 22  # the bad batch, counted from 0


def spiked(batch: int, *, factor: float = 1e4) -> dict[str, np.ndarray]:
    data = input_fn(batch)
    return data | {"y": data["y"] * np.float32(factor if batch == SPIKE else 1)}


def run(folder, steps: int = 30, source=spiked, **changes) -> Estimator:
    """Trains like main.py: starts where progress.json says, in batches of BATCH windows."""
    values = {"train_batch_size": BATCH, "max_steps": 30, "log_steps": 1, "train_steps": 1000, "save_steps": 10}
    estimator = Estimator(model_fn, 0.1, RunConfig(model_path=str(folder), **values | changes), devices=one_device())
    step = estimator.latest_step() or 0
    spans = resume(folder, step, batch_size=BATCH, tokens_per_window=1, data=DATA, old={})
    position = DataPosition(spans)
    assert estimator.train(lambda at: source(position.window_at(at) // BATCH), total_steps=steps, position=position)
    return estimator


def weights(estimator: Estimator, step: int | None = None):
    return estimator.restore(step=step)[1]


def bad_steps_of(folder) -> list[dict]:
    return [record for record in records(folder, "event") if "bad_step" in record]


def test_only_what_is_far_above_the_median_of_many_accepted_steps_is_an_outlier():
    bounds, recent = OutlierBounds(1.0, 4.0), RecentSteps.initial()
    accepted = jnp.bool_(True)
    for number in range(bad_steps.SETTLING_STEPS):
        assert not recent.is_outlier(bounds, jnp.float32(1e9), jnp.float32(1e9))
        recent = recent.after(jnp.float32(number), jnp.float32(2.0), accepted=accepted)
    median = (bad_steps.SETTLING_STEPS - 1) / 2
    for loss, norm, expected in [(median + 0.9, 7.9, False), (median + 1.1, 0, True), (0, 8.1, True)]:
        assert bool(recent.is_outlier(bounds, jnp.float32(loss), jnp.float32(norm))) == expected
    assert not recent.is_outlier(OutlierBounds(None, 4.0), jnp.float32(1e9), jnp.float32(1))
    left_out = recent.after(jnp.float32(7), jnp.float32(7), accepted=jnp.bool_(False))
    np.testing.assert_array_equal(left_out.losses, recent.losses)
    for _ in range(bad_steps.WINDOW):
        recent = recent.after(jnp.float32(5), jnp.float32(5), accepted=accepted)
    assert np.unique(recent.losses).tolist() == [5]


@pytest.fixture(scope="module")
def skipping(tmp_path_factory):
    """A run that skips one step, and its directory."""
    folder = tmp_path_factory.mktemp("skip")
    return run(folder, keep_every_steps=1, **BOUNDS), folder


def test_an_outlier_leaves_weights_and_moments_as_they_were_and_is_logged_with_its_batch(skipping):
    estimator, folder = skipping
    assert_identical(weights(estimator, SPIKE + 1), weights(estimator, SPIKE))
    assert np.abs(weights(estimator, SPIKE + 2)["w"] - weights(estimator, SPIKE)["w"]).max() > 0
    (event,) = bad_steps_of(folder)
    assert event["event"] == "skipped"
    assert event["step"] == event["bad_step"] == SPIKE + 1
    assert (event["first_window"], event["last_window"]) == (SPIKE * BATCH, SPIKE * BATCH + BATCH - 1)
    assert event["loss"] > 1e6
    assert len(losses(folder)) == 30


def test_bounds_change_no_bit_of_a_run_without_outliers(tmp_path, skipping):
    usual = run(tmp_path, SPIKE, source=input_fn)
    assert_identical(weights(usual), weights(skipping[0], SPIKE))


@pytest.mark.parametrize("iterations", [1, 4])
def test_a_resumed_run_judges_the_next_step_by_the_same_median(tmp_path, skipping, iterations):
    # A compiled loop of several steps may round differently.
    undisturbed = skipping[0] if iterations == 1 else run(tmp_path / "whole", **BOUNDS, iterations=iterations)
    run(tmp_path, SPIKE, **BOUNDS, iterations=iterations)
    resumed = run(tmp_path, **BOUNDS, iterations=iterations)
    assert_identical(weights(resumed), weights(undisturbed))
    assert len(bad_steps_of(tmp_path)) == 1


def test_a_run_that_began_without_bounds_continues_with_them(tmp_path):
    run(tmp_path, 2)
    run(tmp_path, 4, **BOUNDS)
    assert len(losses(tmp_path)) == 4


def test_stop_ends_the_run_at_the_batch(tmp_path):
    with pytest.raises(
        DivergedError, match=r"step 23: the loss or.*outlier.*--show_batch 176:184.*from step 20"
    ) as error:
        run(tmp_path, on_bad_step="stop", **BOUNDS)
    assert error.value.code == 3
    with pytest.raises(DivergedError, match="the loss is not finite"):
        run(tmp_path / "nan", 30, source=lambda at: spiked(at, factor=np.nan), on_bad_step="stop")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run without the batches that a rollback from step 23 to step 20 skips."""
    folder = tmp_path_factory.mktemp("moved")
    return run(folder, source=lambda at: input_fn(at if at < 20 else at + SPIKE - 19))


@pytest.mark.parametrize("log_steps", [1, 10])
def test_rollback_continues_from_the_checkpoint_with_the_data_after_the_bad_batch(log_steps, tmp_path, moved):
    nan = {"source": lambda at: spiked(at, factor=np.nan), "on_bad_step": "rollback", "log_steps": log_steps}
    assert_identical(weights(run(tmp_path / "whole", **nan)), weights(moved))
    assert [record["step"] for record in records(tmp_path / "whole")] == list(range(log_steps, 31, log_steps))
    (event,) = bad_steps_of(tmp_path / "whole")
    assert (event["event"], event["step"], event["bad_step"], event["first_window"]) == ("rollback", 20, 23, 176)
    assert event["lost_steps"] == 3
    assert event["lost_seconds"] > 0
    run(tmp_path / "cut", 25, **nan)
    assert_identical(weights(run(tmp_path / "cut", **nan)), weights(moved))


def test_rollbacks_to_the_beginning_keep_the_records_of_the_start_and_of_one_another(tmp_path):
    source = {"source": lambda at: spiked(at if at < 4 else SPIKE, factor=np.nan)}
    with pytest.raises(DivergedError, match="after 2 rollbacks"):
        run(tmp_path, on_bad_step="rollback", max_rollbacks=2, **source)
    found = [(record["event"], record["step"], record.get("bad_step")) for record in records(tmp_path, "event")]
    assert found == [("start", 0, None), ("rollback", 0, 5), ("rollback", 0, 1)]


def test_rollbacks_of_a_run_are_limited_across_resumes(tmp_path):
    def lost(at: int) -> dict[str, np.ndarray]:
        return spiked(at) | ({"y": np.full(8, np.nan, np.float32)} if at > 15 else {})

    for _ in range(2):
        with pytest.raises(
            DivergedError, match=r"after 2 rollbacks \(max_rollbacks\): step 11: the loss is not finite"
        ):
            run(tmp_path, source=lost, on_bad_step="rollback", max_rollbacks=2)
    assert [record["step"] for record in bad_steps_of(tmp_path)] == [10, 10]
    assert DataSpan.moved(DataSpan(10, 80, 80, 8, 1, None, 0), 10, 16).window_at(10) == 128


def test_rollback_needs_to_know_the_data(tmp_path):
    config = RunConfig(model_path=str(tmp_path), train_batch_size=8, max_steps=1, on_bad_step="rollback")
    with pytest.raises(UserError, match="rollback needs the `position`"):
        Estimator(model_fn, 0.1, config, devices=one_device()).train(input_fn, total_steps=1)


def test_positions_survive_new_batch_sizes_and_count_skipped_data_neither_as_tokens_nor_as_epochs():
    span = DataSpan(20, 160, 160, 8, 1, DATA, 0).moved(20, 23)
    assert (span.tokens_at(21), span.window_at(20), span.window_at(21)) == (168, 184, 192)
    assert span.total_steps(max_steps=None, max_tokens=None, max_windows=240) == 30
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, span, DataSpan(**span._asdict())))


def test_a_run_whose_last_steps_were_all_bad_has_diverged():
    watch = LossWatch(max_skipped=20, max_rise=None)
    for step, accepted in enumerate([True, *[False] * 9], start=1):
        watch.add(step, 1.0 if accepted else np.nan, accepted=accepted)
    watch.check(10)
    watch.add(11, np.nan, accepted=False)
    with pytest.raises(DivergedError, match="the last 10 updates, up to step 11, were not finite or outliers"):
        watch.check(11)
