"""Keeping the best weights, and stopping when they no longer improve, regardless of interruptions."""

import hashlib
import json
import math
import random
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest
from helpers.runs import records
from test_estimator import assert_identical, estimator, input_fn

from estimator.config import parse_sections
from estimator.data.batches import EvaluationBatches
from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.training.checkpoints import Checkpoints
from estimator.training.history import read_history
from estimator.training.monitor import LossWatch
from estimator.training.run_config import RunConfig

# Evaluation loss by step. Step 8 has the lowest loss; the next four losses are not lower.
LOSSES = {2: 5.0, 4: 3.0, 6: 4.0, 8: 2.0, 10: 2.5, 12: 2.0, 14: math.nan, 16: 2.1, 18: 1.0, 20: 0.9}
KEYS = {"train_steps": 2, "keep_best": True, "keep_checkpoints": 1}


class Killed(Exception):
    """Simulates a kill in the middle of an evaluation."""


def train(folder, steps: int = 20, *, kill_at: int = 0, **changes) -> tuple[bool, list[int]]:
    """Returns whether the run is complete, and the evaluated steps."""
    run = estimator(folder, **(KEYS | changes))
    evaluated = []

    def evaluation(params, stop):
        step = records(folder)[-1]["step"]
        if step == kill_at:
            raise Killed
        evaluated.append(step)
        return {"loss": LOSSES[step]}

    return run.train(input_fn, total_steps=steps, evaluation=evaluation), evaluated


def best(folder) -> tuple[int, dict]:
    return estimator(folder, load_best=True).restore()


def test_patience_ends_a_run_and_the_best_weights_are_those_of_their_step(tmp_path, capsys):
    assert train(tmp_path / "run", patience=4) == (True, list(range(2, 18, 2)))
    line = "stopped at step 16: 4 evaluations without a loss below 2.0000; a larger patience continues"
    assert line in capsys.readouterr().err
    step, params = best(tmp_path / "run")
    assert step == 8
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["8"]
    assert train(tmp_path / "short", 8) == (True, [2, 4, 6, 8])
    assert_identical(params, estimator(tmp_path / "short").restore()[1])
    assert estimator(tmp_path / "run").restore()[0] == 16

    assert train(tmp_path / "run", patience=4) == (True, [])
    assert line in capsys.readouterr().err
    assert train(tmp_path / "run", patience=5) == (True, [18, 20])
    assert best(tmp_path / "run")[0] == 20


def test_losses_of_other_windows_are_not_the_best(tmp_path):
    train(tmp_path, 4)
    path, config = tmp_path / "metrics.jsonl", estimator(tmp_path).config

    def lowest(*digests: str, now: str) -> float:
        """Returns the best loss after losses 1 and 3, logged under these evaluation digests; `now`: the current one."""
        lines = []
        for step, (digest, loss) in enumerate(zip(digests, (1.0, 3.0), strict=True), start=1):
            lines += [{"step": step - 1, "split": "event", "event": "start", "evaluation": digest}] if digest else []
            lines += [{"step": step, "split": "eval", "loss": loss}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
            return read_history(config, checkpoints, 2, evaluation=now).best.lowest

    assert lowest("a", "a", now="a") == lowest("", "", now="a") == lowest("a", "a", now="") == 1.0
    assert lowest("a", "b", now="b") == lowest("a", "b", now="") == 3.0
    assert lowest("a", "a", now="b") == math.inf
    # An earlier version recorded the first half.
    assert lowest("a", "ab", now="ab") == lowest("ab", "a", now="ab") == lowest("a", "a", now="ab") == 1.0
    assert lowest("ab", "ac", now="ac") == 3.0
    assert lowest("a", "b", now="a") == 1.0  # which a start with other windows did not make it forget


def test_the_digest_of_an_evaluation_follows_its_windows():
    def digest(windows: np.ndarray, *, steps: int | None = None) -> str:
        class Windows:
            __len__ = lambda self: len(windows)  # noqa: E731
            batch = lambda self, indices: {"tokens": windows[indices], "weights": np.ones((len(indices), 4))}  # noqa: E731

        data = Data(None, Windows(), None, None, [], lambda: "", lambda: "")
        return EvaluationBatches(data, batch_size=2, steps=steps).digest

    windows = np.arange(40).reshape(8, 5)
    assert digest(windows) == digest(windows.copy(), steps=4) == digest(windows, steps=9)
    assert len({digest(windows), digest(windows, steps=2), digest(windows[1:]), digest(windows + 1)}) == 4
    for count in (1, 2, 8, 63, 64):
        windows = np.arange(5 * count).reshape(count, 5)
        others = [windows + 1000 * (np.arange(count) == changed)[:, None] for changed in range(count)]
        assert len({digest(each) for each in [windows, *others]}) == count + 1
        # An earlier version read these windows, and its digest is the beginning of ours.
        before = windows[[i * count // 64 for i in range(count)]], np.ones((count, 4))
        data = str(count).encode() + b"".join(np.ascontiguousarray(each).tobytes() for each in before)
        assert digest(windows).startswith(hashlib.sha256(data).hexdigest()[:16])


def test_a_step_that_is_evaluated_again_counts_once(tmp_path):
    train(tmp_path, 4)
    path, config = tmp_path / "metrics.jsonl", estimator(tmp_path).config
    draw, losses, waited = random.Random(0), {}, []
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step in range(1, 30):
            losses[step] = draw.choice([1.0, 2.0, 3.0, 4.0, math.nan])
            records = [{"step": at, "split": "eval", "loss": loss} for at, loss in losses.items()]
            again = [record for record in records for _ in range(draw.randint(1, 3))]
            path.write_text("".join(json.dumps(record) + "\n" for record in again).replace("NaN", "null"))
            found = read_history(config, checkpoints, step).best
            known = [loss for loss in losses.values() if not math.isnan(loss)]
            lowest = next((at for at in losses if known and losses[at] == min(known)), 0)
            waited.append((found.lowest_at, found.waited) == (lowest, step - lowest))
    assert all(waited)


@pytest.mark.parametrize("kill_at", [4, 10, 14])
def test_a_killed_run_keeps_and_stops_as_one_that_was_not(tmp_path, kill_at):
    with pytest.raises(Killed):
        train(tmp_path, kill_at=kill_at, patience=4)
    lowest = min((LOSSES[step], step) for step in range(2, kill_at, 2))[1]
    assert best(tmp_path)[0] == lowest
    complete, evaluated = train(tmp_path, patience=4)
    assert complete
    assert evaluated[-1] == 16
    assert [record["step"] for record in records(tmp_path, "eval")] == list(range(2, 18, 2))
    assert best(tmp_path)[0] == 8


def test_weights_that_a_kill_kept_from_best_are_fetched_from_the_checkpoints(tmp_path):
    train(tmp_path, 10)
    expected = best(tmp_path)
    shutil.rmtree(tmp_path / "best")
    train(tmp_path, 12)
    step, params = best(tmp_path)
    assert step == expected[0] == 8
    assert_identical(params, expected[1])


def test_the_second_best_weights_that_a_kill_left_are_removed(tmp_path):
    """It came between the save of the best weights and the removal of those before."""
    train(tmp_path, 8)
    shutil.copytree(tmp_path / "best" / "8", tmp_path / "best" / "4")
    assert train(tmp_path, 10) == (True, [10])
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["8"]
    assert best(tmp_path)[0] == 8


def test_a_run_taken_back_by_hand_replaces_the_best_weights_of_its_old_future(tmp_path):
    train(tmp_path, 10, keep_checkpoints=9)
    assert best(tmp_path)[0] == 8
    for step in (6, 8, 10):
        shutil.rmtree(tmp_path / "checkpoints" / str(step), ignore_errors=True)
    train(tmp_path, 6)
    assert best(tmp_path)[0] == 4
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["4"]


@pytest.mark.parametrize("keys", [{}, {"keep_best": False}])
def test_weights_of_a_discarded_step_are_not_the_best_when_that_step_comes_again(tmp_path, capsys, keys):
    train(tmp_path, 4, train_steps=4, save_steps=2, keep_checkpoints=9)
    discarded = best(tmp_path)[1]
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    changes = KEYS | {"train_steps": 4, "save_steps": 2, "keep_checkpoints": 9} | keys
    run = estimator(tmp_path, rate=0.5, **changes)
    assert run.train(input_fn, total_steps=4, evaluation=lambda params, stop: {"loss": 9.0})
    assert f"removed {tmp_path}/best/4: the run continues from step 2" in capsys.readouterr().err
    if keys:
        assert not any((tmp_path / "best").iterdir())
        return
    step, kept = best(tmp_path)
    assert step == 4
    assert_identical(kept, estimator(tmp_path).restore()[1])
    assert not np.array_equal(*(jax.tree.leaves(each)[0] for each in (kept, discarded)))


def test_eight_devices_write_what_one_reads(tmp_path):
    run = estimator(tmp_path, devices=jax.devices(), **KEYS)
    losses = iter([1.0, 2.0])
    assert run.train(input_fn, total_steps=4, evaluation=lambda params, stop: {"loss": next(losses)})
    assert best(tmp_path)[0] == 2


def test_what_cannot_be_is_explained(tmp_path):
    train(tmp_path, 4, keep_best=False)
    with pytest.raises(UserError, match=r"load_best: .*/best has no checkpoint; train with keep_best"):
        best(tmp_path)
    values = {"model_path": "x", "train_batch_size": 1, "max_steps": 1, "eval_steps": 0}
    for key, value in {"keep_best": True, "patience": 1}.items():
        with pytest.raises(UserError, match=f"{key}: needs evaluations, and eval_steps is 0"):
            parse_sections(values | {key: value}, [RunConfig], source="x.json")
    with pytest.raises(UserError, match=r"trackers: .* twice"):
        parse_sections(values | {"trackers": ["wandb", "mlflow", "wandb"]}, [RunConfig], source="x.json")


def test_a_run_without_a_checkpoint_near_its_lowest_loss_advises_to_keep_it(tmp_path, capsys):
    train(tmp_path / "late", 16, keep_best=False)
    advice = "the lowest eval loss was 2.0000 at step 8, and no checkpoint was saved up to there; keep_best saves"
    assert advice in capsys.readouterr().err
    train(tmp_path / "falling", 4, keep_best=False)
    train(tmp_path / "kept", 16)
    assert "keep_best saves" not in capsys.readouterr().err


def train_with(folder, losses: dict[int, float], *, high=(), **changes) -> None:
    """Trains with these evaluation losses. high: steps at which the training loss is far above its best."""
    run, is_high = estimator(folder, **(KEYS | changes)), [False]

    def evaluation(params, stop):
        step = records(folder)[-1]["step"]
        is_high[0] = step in high
        return {"loss": losses[step]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossWatch, "is_high", property(lambda watch: is_high[0]))
        assert run.train(input_fn, total_steps=max(losses), evaluation=evaluation)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_loss_whose_weights_could_not_be_kept_keeps_no_better_ones_than_those_of_best_from_it(
    tmp_path, capsys, restarted
):
    losses = {2: 5.0, 4: 4.0, 6: 1.0}
    if restarted:
        train_with(tmp_path, losses | {7: 9.0}, high=[6])
        assert best(tmp_path)[0] == 4
    train_with(tmp_path, losses | {8: 3.0, 10: 3.5}, high=[6])
    assert best(tmp_path)[0] == 8
    said = capsys.readouterr().err
    assert "RUN/best has the weights of step 8 (eval loss 3.0000)" in said
    assert "keep_best saves" not in said


def test_a_run_that_has_lost_its_checkpoints_overwrites_neither_best_nor_its_metrics(tmp_path):
    run = tmp_path / "run"
    train(run, 4)
    (run / "checkpoints").rename(tmp_path / "away")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"run/checkpoints has no checkpoint .*best has the weights of step 4\. Put the"
    ):
        train(run, 8)
    with pytest.raises(UserError, match=r"best has the weights of step 4: .*load_best=true"):
        estimator(run).restore()
    (run / "best").rename(tmp_path / "best")
    with pytest.raises(
        UserError, match=r"metrics\.jsonl tells that there was one at about step 4\. Put the checkpoints back"
    ):
        train(run, 8)
    assert (run / "metrics.jsonl").read_bytes() == before
    (run / "checkpoints").rmdir()
    (tmp_path / "away").rename(run / "checkpoints")
    train(run, 8)
    assert best(run)[0] == 8


def test_a_killed_run_begins_anew_if_it_had_saved_nothing_and_not_if_it_had(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "early", kill_at=2, keep_best=False)
    assert train(tmp_path / "early", 4, keep_best=False)[0]
    with pytest.raises(Killed):
        train(tmp_path / "late", kill_at=8, keep_best=False, save_steps=2)
    shutil.rmtree(tmp_path / "late" / "checkpoints")
    with pytest.raises(UserError, match=r"tells that there was one at about step [2-6]\. Put"):
        train(tmp_path / "late", 8, keep_best=False)
