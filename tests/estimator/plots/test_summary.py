"""Summaries of runs: a breakdown of the time, and the results as text."""

import json
import sys

import pytest
from helpers.runs import write_run

from estimator.plots import report, runs, summary


def test_time_adds_up_to_what_was_logged(tmp_path):
    folder = write_run(tmp_path / "run", changes={"input_wait": 0.25})
    more = [
        {"step": 0, "split": "event", "event": "start", "start_seconds": 5.0},
        {"step": 20, "split": "event", "event": "start", "start_seconds": 6.0, "lost_steps": 4, "lost_seconds": 3.0},
        {"step": 41, "split": "train", "loss": 2.0, "step_seconds": 0.5, "compile_seconds": 2.0, "nap_seconds": 1.5},
        {"step": 44, "split": "eval", "loss": 2.0, "tokens": 10**7, "eval_seconds": 4.0},
        {"step": 41, "split": "event", "event": "stop", "checkpoint_seconds": 0.5},
    ]
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in more)
    run = runs.load_run(folder, label="run")
    spent = summary.time_spent(run)
    expected = {"training": 15.5, "input": 5.0, "compile": 2.0, "eval": 4.0, "checkpoint": 0.5}
    assert spent == pytest.approx(expected | {"start": 11.0, "lost": 3.0, "other": 1.5})
    assert summary.goodput(spent) == pytest.approx(15.5 / 42.5)
    lines = dict(
        line.split(maxsplit=1) for line in summary.table(run) if line.startswith(("tokens", "goodput", "restarts"))
    )
    short = "36.5% (52.5% after the start)"
    assert lines == {"tokens": "10,000,000", "goodput": short, "restarts": "1"}
    assert "training loss    2.0000 (step 41)" in summary.table(run)
    stop = {"step": 47, "tokens": 3008, "split": "event", "event": "stop"}  # seven steps after the last logged one
    with open(write_run(tmp_path / "ended", evaluations=False) / "metrics.jsonl", "a") as file:
        file.write(json.dumps(stop) + "\n")
    ended = summary.table(runs.load_run(tmp_path / "ended", label="ended"))
    assert [line.split(maxsplit=1)[1] for line in ended[:2]] == ["47", "3,008"]
    assert "training loss  2.1250 (step 40)" in ended
    assert "training loss    2.1250" in summary.table(runs.load_run(write_run(tmp_path / "logged"), label="logged"))


@pytest.mark.parametrize(
    ("digests", "owed", "expected"),
    [
        (("a", "ab"), False, "5.0000 (lowest 2.0000 at step 20)"),
        (("a", "b"), False, "5.0000 (lowest 4.0000 at step 40)"),
        (("a", "b"), True, "5.0000 (lowest 2.0000 at step 20)"),
        ((None, "b"), False, "5.0000 (lowest 2.0000 at step 20)"),
    ],
)
def test_the_lowest_loss_is_one_of_the_same_windows(tmp_path, digests, owed, expected):
    records = [
        {"step": 0, "split": "event", "event": "start", "time": 0} | ({"evaluation": digests[0]} if digests[0] else {}),
        {"step": 10, "split": "eval", "loss": 1.0 if digests[1] != "ab" and digests[0] else 3.0, "time": 1},
        {"step": 20, "split": "eval", "loss": 2.0, "time": 4 if owed else 2},
        {"step": 20, "split": "event", "event": "start", "evaluation": digests[1], "time": 3},
        {"step": 40, "split": "eval", "loss": 4.0, "time": 5},
        {"step": 60, "split": "eval", "loss": 5.0, "time": 6},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert f"evaluation loss  {expected}" in summary.table(runs.load_run(tmp_path, label="run"))


def test_a_report_shows_each_kind_of_time(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # skip the figure, which is slow
    seconds = {f"{kind}_seconds": 1.0 for kind in summary.KINDS}
    page = report.page(str(write_run(tmp_path / "run", changes=seconds | {"input_wait": 0.1})))
    assert all(f"</span>{name}</td>" in page for name in summary.KINDS.values())


def test_a_run_without_times_has_the_other_lines(tmp_path):
    folder = write_run(tmp_path / "run", evaluations=False, changes={"step_seconds": None, "loss": None})
    assert summary.table(runs.load_run(folder, label="run")) == [
        "steps   40",
        "tokens  2,560",
        "speed   10,000 tokens/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (125, "2:05"), (7405, "2:03:25"), (90061, "1 day, 1:01:01"), (1e20, "1e+20 s")],
)
def test_durations(seconds, text):
    assert summary.duration(seconds) == text
