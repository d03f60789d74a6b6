"""Learning-rate range test: losses follow the schedule, and the suggestion is below the best learning rate."""

import json
import math

import jax
import pytest
from conftest import one_device
from helpers.main_runs import call, options

from estimator.errors import UserError
from estimator.search.lr_range import RangeStep, suggestion


def test_the_rate_grows_until_the_loss_rises_and_nothing_is_saved(corpus, tmp_path, monkeypatch, capsys):
    devices = one_device()
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    call(monkeypatch, [*options(corpus, tmp_path, iterations=3), "--lr_range_test", "60"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "lr_range.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        assert line["lr"] == pytest.approx(1e-6 * 1e7 ** ((line["step"] - 1) / 59), rel=1e-4)
    assert lines[0]["loss"] == pytest.approx(math.log(300), abs=0.1)
    lowest = min(lines, key=lambda line: line["smoothed"])
    assert lowest["smoothed"] < lines[0]["smoothed"] - 0.5
    assert len(lines) == 60 or lines[-1]["smoothed"] > lowest["smoothed"] + 2
    out, err = capsys.readouterr()
    assert f"suggested lr: {lowest['lr'] / 10:.2g}" in out
    assert err.count("learning rates from 1e-06 to 10; lr, schedule and warmup_steps have no effect on the test\n") == 1
    assert f"step 3/60  lr {lines[2]['lr']:.2e}  loss {lines[2]['smoothed']:.4f}\n" in err
    assert (tmp_path / "run" / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lr_range.jsonl", "lr_range.png"}
    with pytest.raises(UserError, match="write from 20 to 1,000,000 steps"):
        call(monkeypatch, [*options(corpus, tmp_path), "--lr_range_test", "3"])


def test_losses_that_do_not_fall_suggest_nothing():
    with pytest.raises(UserError, match="the loss falls at no learning rate"):
        suggestion([RangeStep(step, 0.1 * step, 5.0, 5.0) for step in range(1, 30)])
