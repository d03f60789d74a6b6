"""Figures of runs: every kind of file, axis and number of runs, and the errors a person can meet."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import visualize
from runtime.errors import UserError


def write_run(folder, *, steps=40, evaluations=True, changes=None):
    folder.mkdir(parents=True)
    records = []
    for step in range(1, steps + 1):
        common = {"step": step, "tokens": step * 64, "time": 1.7e9 + step}
        train = {"split": "train", "loss": 5 / step + 2, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 1e4}
        records.append(common | train | {"step_seconds": 0.5} | (changes or {}))
        if evaluations and step % 10 == 0:
            records.append(common | {"split": "eval", "loss": 5 / step + 2.1, "perplexity": 9.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def drawn(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments)])
    visualize.main()


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("x", ["steps", "tokens", "time"])
def test_file_type_follows_the_suffix(tmp_path, monkeypatch, suffix, magic, x):
    pytest.importorskip("matplotlib")
    figure = tmp_path / f"curves.{suffix}"
    drawn(monkeypatch, "--run", write_run(tmp_path / "run"), "--figure", figure, "--x", x)
    assert figure.read_bytes().startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == [figure.name, "run"]


def test_several_runs_on_one_figure_by_name(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name / "model") for name in ("adam", "muon")]
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, "--run", runs[0], runs[1] / "metrics.jsonl", "--figure", figure, "--log_x", "--log_y")
    text = figure.read_text()
    assert "adam  2.225" in text
    assert "muon  2.225" in text
    assert "adam (40 steps, eval loss 2.2250), muon" in capsys.readouterr().out


@pytest.mark.parametrize(
    "run",
    [
        {"steps": 1, "evaluations": False},
        {"evaluations": False},
        {"changes": {"loss": None}},
        {"changes": {"loss": None, "grad_norm": None, "tokens_per_second": None, "lr": None}},
        {"changes": {"split": "eval", "perplexity": 1.0}},
    ],
    ids=["one point", "no evaluation", "diverged", "loss only", "evaluation only"],
)
def test_unusual_runs_are_drawn(tmp_path, monkeypatch, run):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "curves.png"
    drawn(monkeypatch, "--run", write_run(tmp_path / "run", **run), "--figure", figure)
    assert figure.stat().st_size > 1000


def test_time_is_training_time_without_pauses(tmp_path):
    run = visualize.load_run(write_run(tmp_path / "run"), label="run")
    np.testing.assert_allclose(run.x(run.train, "time"), 0.5 * np.arange(1, 41))
    np.testing.assert_allclose(run.x(run.evaluation, "time"), [5, 10, 15, 20])


def test_smoothing_lags_neither_behind_a_slope_nor_at_the_ends():
    line = np.linspace(8, 2, 50)
    np.testing.assert_allclose(visualize.smoothed(line, weight=0.9), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert visualize.smoothed(noise, weight=0.9).std() < 0.4 * noise.std()


def test_smoothing_leaves_gaps_open_and_unfelt():
    values = np.linspace(8, 2, 50)
    values[[0, 20, 49]] = math.nan
    np.testing.assert_allclose(visualize.smoothed(values, weight=0.8), values)
    alone = np.array([math.nan, 3.0, math.nan])
    np.testing.assert_allclose(visualize.smoothed(alone, weight=0.8), alone)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/a/model", "x/b/model"], ["a", "b"]),
        (["a/1", "b/1", "b/2"], ["a/1", "b/1", "b/2"]),
        (["runs/a/metrics.jsonl", "runs/b"], ["a", "b"]),
        (["runs/a", "runs/a"], ["a", "a"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(tmp_path, paths, names):
    assert visualize.labels([tmp_path / path for path in paths]) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{0}/none", "--figure", "{0}/a.png"], "none: no such run"),
        (["--run", "{0}", "--figure", "{0}/a.png"], "not a run's folder"),
        (["--run", "{0}/empty", "--figure", "{0}/a.png"], "is empty"),
        (["--run", "{0}/run", "--figure", "{0}/no/a.png"], "no: no such folder.*mkdir"),
        (["--run", "{0}/run", "--figure", "{0}/a.jpg"], "unknown kind.*png"),
        (["--run", "{0}/run", "--figure", "{0}/a"], "unknown kind"),
        (["--run", "{0}/run", "--figure", "{0}/a.png", "--smooth", "1"], "--smooth 1: .*below 1"),
        (["--run", "{0}/timeless", "--figure", "{0}/a.png", "--x", "time"], "use --x steps"),
    ],
)
def test_what_a_person_can_get_wrong_is_said(tmp_path, monkeypatch, arguments, message):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "run")
    write_run(tmp_path / "timeless", changes={"step_seconds": None})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=message):
        drawn(monkeypatch, *(argument.format(tmp_path) for argument in arguments))
    assert not list(tmp_path.glob("*a.*"))


def test_missing_matplotlib_is_named_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        drawn(monkeypatch, "--run", write_run(tmp_path / "run"), "--figure", tmp_path / "a.png")


def test_the_program_ends_with_one_line_and_a_code(tmp_path):
    command = [sys.executable, str(ROOT / "visualize.py"), "--run", "nothing", "--figure", "a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing: no such run")
    assert done.stderr.count("\n") == 1
