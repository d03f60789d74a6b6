"""What a resumed run says of the learning rates that it has had, and of passes over other data."""

import re

import pytest
from helpers.main_runs import call, metrics, options, write_corpus

from estimator.training.control_files import ControlFolder


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_a_later_end_that_takes_the_learning_rate_up_again_is_said(tmp_path, monkeypatch, capsys, schedule):
    (tmp_path / "corpus").mkdir()
    arguments = options(write_corpus(tmp_path / "corpus"), tmp_path, schedule=schedule)
    call(monkeypatch, arguments)
    capsys.readouterr()
    call(monkeypatch, [*arguments, "--set", "max_steps=20"])
    line = re.search(
        r"learning rate: (.*) in step 12, (.*) in step 13, by the schedule to step 20", capsys.readouterr().err
    )
    assert bool(line) == (schedule != "constant")
    rates = {record["step"]: record["lr"] for record in metrics(tmp_path, "train")}
    if line:
        assert [float(text) for text in line.groups()] == pytest.approx([rates[12], rates[13]], rel=0.01)
        assert rates[13] > 1.5 * rates[12]


def test_a_resume_by_the_same_schedule_says_nothing_of_it(tmp_path, monkeypatch, capsys):
    """Also where a command has multiplied the learning rates."""
    (tmp_path / "corpus").mkdir()
    arguments = options(write_corpus(tmp_path / "corpus"), tmp_path, schedule="cosine", lr=0.003)
    request = tmp_path / "run" / "control" / "slower.json"
    request.parent.mkdir(parents=True)
    request.write_text('{"command": "lr", "value": 0.0005}')
    call(monkeypatch, [*arguments, "--set", "keep_every_steps=6"])
    assert ControlFolder(str(tmp_path / "run")).history()[0][1:] == ("slower", "lr", 0.0005, 0.003)
    (tmp_path / "run" / "checkpoints" / "12").rename(tmp_path / "12")
    capsys.readouterr()
    call(monkeypatch, arguments)
    err = capsys.readouterr().err
    assert "continuing from step 6" in err
    assert "learning rate:" not in err


def test_a_text_that_is_added_starts_the_passes_over_and_is_said_to(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus")
    arguments = options(corpus, tmp_path, max_steps="null", max_epochs=1)
    call(monkeypatch, arguments)
    first = metrics(tmp_path, "train")[-1]["step"]
    assert "max_epochs" not in capsys.readouterr().err
    (corpus / "new.txt").write_text("Something that is new today.\n" * 5)
    call(monkeypatch, arguments)
    err = capsys.readouterr().err
    assert "continues with the first window; max_epochs 1 counts the passes over these data alone" in err
    windows = int(re.search(r"([0-9]+) windows an epoch", err)[1])
    assert metrics(tmp_path, "train")[-1]["step"] - first == windows // 8


def test_another_spelling_of_the_folder_is_no_change(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, options("corpus", tmp_path, model_path="run", max_steps=2))
    capsys.readouterr()
    call(monkeypatch, ["--model", "run", "--set", "max_steps=3"])
    err = capsys.readouterr().err
    changes = re.findall("changed since the last start: (.*)", err)
    assert changes == ["max_steps: 2 before, 3 now"]
    (tmp_path / "run").rename(tmp_path / "moved")
    call(monkeypatch, ["--model", "moved", "--set", "max_steps=4"])
    assert "changed since the last start: model_path: " in capsys.readouterr().err
