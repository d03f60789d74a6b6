"""Loading metrics as arrays, from our runs and from those of other programs."""

import json
import math

import numpy as np
import pytest
from helpers.runs import write_run

from estimator.errors import UserError
from estimator.plots import runs
from estimator.plots.columns import Columns
from estimator.training import metrics_log


def test_time_is_training_time_without_pauses(tmp_path):
    run = runs.load_run(write_run(tmp_path / "run"), label="run")
    np.testing.assert_allclose(run.x(run.train, "time"), 0.5 * np.arange(1, 41))
    np.testing.assert_allclose(run.x(run.evaluation, "time"), [5, 10, 15, 20])


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
    assert runs.labels([tmp_path / path for path in paths]) == names


def test_a_run_that_logs_its_first_step_meanwhile_takes_no_name_from_another(tmp_path, monkeypatch):
    paths, looks = [str(write_run(tmp_path / name)) for name in ("a", "b")], []
    monkeypatch.setattr(runs, "_has_begun", lambda path: path != paths[0] or looks.append(path) or len(looks) > 1)
    [group] = runs.load_groups(paths, by_seed=False)
    assert group.label == group.runs[0].label == "b"


@pytest.mark.parametrize("value", ["[1]", "{}", "[" * 3000, "9" * 400, "9" * 5000])
def test_records_with_values_of_another_kind_are_refused_with_their_line(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"split": "train", "step": 1}}\n{{"split": "train", "step": 2, "loss": {value}}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not a record"):
        runs.load_run(path, label="a")
    path.write_text('{"split": "train", "step": 1, "loss": "nan"}\n')
    assert np.isnan(runs.load_run(path, label="a").train["loss"]).all()
    path.write_text('{"split": "other", "step": 1}\n')
    with pytest.raises(UserError, match="has no records"):
        runs.load_run(path, label="a")


@pytest.mark.parametrize("parser", ["orjson", "json"])
def test_every_way_of_reading_gives_the_numbers_of_json(tmp_path, monkeypatch, parser):
    if parser == "orjson":
        pytest.importorskip("orjson")
    monkeypatch.setattr(metrics_log, "BLOCK", 1000)  # bytes: several blocks, with records that cross their boundaries
    monkeypatch.setattr(metrics_log, "_loads", lambda: json.loads if parser == "json" else __import__("orjson").loads)
    folder = write_run(tmp_path / "run", steps=50)
    path = folder / "metrics.jsonl"
    event = {"step": 3, "split": "event", "event": "sample", "time": 1.0}
    odd = {"step": 51, "split": "train", "loss": math.nan, "grad_norm": "nan", "loss_8": 4, "note": "text"}
    lines = [json.dumps(event), *path.read_text().splitlines(), json.dumps(odd)]
    path.write_text("\n".join(lines) + '\n{"step": 52, "split": "train", "lo')  # truncated by a kill
    run = runs.load_run(folder, label="run")
    assert run.events == [event]
    for split, columns in (("train", run.train), ("eval", run.evaluation)):
        rows = [row for row in map(json.loads, lines) if row["split"] == split]
        for key in ("step", "tokens", "loss", "perplexity", "loss_8", "mfu", "flops"):
            values = [math.nan if row.get(key) is None else row[key] for row in rows]
            np.testing.assert_array_equal(columns[key], values)
    assert run.train.losses_by_position(50) == {8: 4.0}


def test_lines_that_only_together_are_json_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"},{"step": 2, "split": "train"}\n')
    with pytest.raises(UserError, match="line 1: not a record"):
        runs.load_run(tmp_path, label="a")


def test_missing_columns_are_nan():
    columns = Columns.joined([Columns.of([{"step": 1}]), Columns.of([]), Columns.of([{"step": 2, "loss": None}])])
    np.testing.assert_array_equal(columns["step"], [1, 2])
    np.testing.assert_array_equal(columns["mfu"], [math.nan, math.nan])
    assert not columns.has("loss")


def json_log(folder, *, validation: str):
    """Writes a log of transformer-lm: training every 2 steps of 100 tokens, validation every 3 steps."""
    folder.mkdir()
    lines = []
    for step in [*range(1, 13), *range(10, 19)]:  # resumed after step 9
        stamp = {"step": 100 * step, "dt": f"2026-01-02T03:{step:02}:00.5"}
        if step % 2 == 0:
            lines.append({"loss": 5 / step, "loss_8": 6 / step} | stamp)
        if step % 3 == 0:
            lines.append({f"{validation}loss": 7 / step, f"{validation}loss_8": 8 / step} | stamp)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (folder / "json-log-plots.log").write_text(text)
    return folder


@pytest.mark.parametrize("kind", ["time", "flops"])
@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (["step", "tokens"], "use --x steps or --x tokens"),
        (["step"], "use --x steps"),
        (["tokens"], "use --x tokens"),
        ([], "it cannot be drawn; leave it out"),
    ],
)
def test_an_axis_that_is_unknown_is_refused_with_those_that_are_known(kind, keys, advice):
    evaluation = Columns.of([{"loss": 2.0} | dict.fromkeys(keys, 10)])
    run = runs.Run(label="run", train=Columns.of([]), evaluation=evaluation)
    with pytest.raises(UserError, match=f"^run does not record its {kind}; {advice}$"):
        run.x(run.evaluation, kind)


def test_an_axis_that_only_some_records_know_is_not_advised():
    train = Columns.of([{"step": 10, "tokens": 640, "step_seconds": None}])
    run = runs.Run(label="run", train=train, evaluation=Columns.of([{"step": 10, "loss": 2.0}]))
    with pytest.raises(UserError, match=r"^run does not record its time; use --x steps$"):
        run.x(run.train, "time")


@pytest.mark.parametrize("validation", ["valid_", ""])
def test_json_log_plots_of_transformer_lm(tmp_path, validation):
    run = runs.load_run(json_log(tmp_path / "run", validation=validation), label="run")
    train, evaluation = np.arange(2, 19, 2), np.arange(3, 19, 3)
    np.testing.assert_array_equal(run.x(run.train, "tokens"), 100 * train)
    np.testing.assert_array_equal(run.train["loss"], 5 / train)
    np.testing.assert_array_equal(run.x(run.evaluation, "tokens"), 100 * evaluation)
    np.testing.assert_array_equal(run.evaluation["loss"], 7 / evaluation)
    assert run.evaluation.losses_by_position(5) == {8: 8 / 18}
    np.testing.assert_array_equal(run.x(run.train, "time"), 60.0 * (train - 2))
    with pytest.raises(UserError, match="does not record its steps; use --x tokens or --x time"):
        run.x(run.train, "steps")


STAMPED = {"train/loss": [(10, 5.0), (20, 4.0)], "eval/loss": [(10, 5.5), (20, 4.5)]}
SUMMARY = {"steps": [10, 20], "times": [7.0, 8.0], "train": [{"loss": 5.0}, {"loss": 4.0}]}
SUMMARY["eval"] = [{"loss": 5.5}, {"loss": 4.5}]
STATE = {
    "metrics_train": SUMMARY["train"],
    "metrics_eval": SUMMARY["eval"],
    "stamps": [(0, 1.0), (10, 8.0), (20, 16.0)],
}


@pytest.mark.parametrize(
    "contents",
    [{"metrics": STAMPED}, {"metrics": SUMMARY}, {"trainer": {"recorder": STATE}}, {"recorder": "an object"}],
    ids=["model", "old model", "old checkpoint", "checkpoint"],
)
def test_metrics_of_affjljoo3581(tmp_path, monkeypatch, contents):
    torch = pytest.importorskip("torch", reason="no PyTorch")
    if "recorder" in contents:
        contents = {"recorder": recorder_of_affjljoo3581(monkeypatch)}
    path = tmp_path / "model.pth"
    torch.save(contents | {"model": {"weight": torch.zeros(2)}}, path)
    run = runs.load_run(path, label="run")
    np.testing.assert_array_equal(run.x(run.train, "steps"), [10, 20])
    np.testing.assert_array_equal(run.train["loss"], [5, 4])
    np.testing.assert_array_equal(run.evaluation["loss"], [5.5, 4.5])
    if not {"recorder", "metrics"} & set(contents) or contents.get("metrics") is SUMMARY:
        np.testing.assert_array_equal(run.x(run.train, "time"), [7, 15])


def recorder_of_affjljoo3581(monkeypatch):
    """Returns a pickled Recorder object as in affjljoo3581's checkpoints."""
    import sys
    import types

    for name in ("gpt2.training", "gpt2.training.recording"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    recorder = type("Recorder", (), {"__module__": "gpt2.training.recording", "__qualname__": "Recorder"})
    monkeypatch.setattr(sys.modules["gpt2.training.recording"], "Recorder", recorder, raising=False)
    made = recorder()
    made.metrics, made.batch_metrics = STAMPED, {}
    return made


def test_a_checkpoint_without_metrics_is_named(tmp_path):
    torch = pytest.importorskip("torch", reason="no PyTorch")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="holds no metrics of affjljoo3581/GPT2"):
        runs.load_run(tmp_path / "model.pth", label="run")
