"""Run directories are self-contained: after moving them, or without cache, text, and vocabulary, they still work."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.main_runs import call, options

from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.tokenization import tokenizer as tokenizers


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(f"{i} quick brown foxes jump over {i} lazy dogs. " * (3 + i % 5))
    return folder


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """Returns a directory with texts, a run of six steps, and its cache."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(texts, project / "texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        arguments = options("texts", project, max_steps=6)
        call(patch, [*arguments, "--set", "model_path=runs/a", "--set", "predict_path=null"])
    return project


def predicted(monkeypatch, capsys, arguments):
    capsys.readouterr()
    call(monkeypatch, [*arguments, "--predict_text", "quick", "--seed", "3", "--length", "6"])
    return capsys.readouterr().out


def test_a_run_that_was_moved_without_anything_else_predicts_evaluates_and_resumes(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(trained)
    expected = predicted(monkeypatch, capsys, ["--model", "runs/a/config.json"])
    call(monkeypatch, ["--model", "runs/a/config.json", "--evaluate"])
    loss = capsys.readouterr().out
    shutil.copytree(trained / "runs" / "a", tmp_path / "new [name]")
    shutil.copytree(trained / "texts", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    moved = ["--model", "new [name]/config.json"]
    assert predicted(monkeypatch, capsys, moved) == expected
    call(monkeypatch, [*moved, "--evaluate", "--set", "data_path=elsewhere"])
    assert capsys.readouterr().out.endswith(loss)
    call(monkeypatch, [*moved, "--set", "data_path=elsewhere", "--set", "max_steps=8"])
    assert (tmp_path / "new [name]" / "checkpoints" / "8").is_dir()
    monkeypatch.chdir(tmp_path.parent)  # the text still exists in its original location
    call(monkeypatch, ["--model", f"{tmp_path}/new [name]/config.json", "--evaluate"])


def test_a_run_of_an_older_version_is_used_and_gets_its_vocabulary(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(trained)
    expected = predicted(monkeypatch, capsys, ["--model", "runs/a/config.json"])
    run = tmp_path / "runs" / "a"
    digest = tokenizers.load(run / "vocabulary").digest
    shutil.rmtree(run / "vocabulary")
    (run / "origin.json").unlink()
    (cache,) = (tmp_path / "runs" / "cache").glob("text-*")
    cache.rename(cache.with_name("text-0123456789ab"))  # named after a different spelling of the path
    old = ["--model", f"{run}/config.json", "--set", f"data_path={trained}/texts"]
    assert predicted(monkeypatch, capsys, old) == expected
    call(monkeypatch, old)
    assert tokenizers.load(run / "vocabulary").digest == digest


def test_a_copy_without_its_checkpoints_is_not_the_run_that_it_was_copied_from(trained, tmp_path, monkeypatch):
    copy = shutil.copytree(trained / "runs" / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match=r"copy has no checkpoint yet"):
        call(monkeypatch, ["--model", str(copy), "--predict_text", "quick"])


def test_spellings_of_a_path_share_a_cache_and_the_origin_is_described(trained, monkeypatch):
    monkeypatch.chdir(trained)
    for spelling in ("./texts", "texts/", str(trained / "texts"), "texts/../texts"):
        changes = ["--set", f"data_path={spelling}", "--set", "model_path=runs/b", "--clean"]
        call(monkeypatch, [*options("texts", trained, max_steps=2), "--set", "predict_path=null", *changes])
    assert len(list((trained / "runs" / "cache").glob("text-*"))) == 1
    origin = json.loads((trained / "runs" / "a" / "origin.json").read_text())
    assert origin["working_directory"] == str(trained)
    assert origin["data_path"] == "texts"
    assert {"code", "version of JAX", "data"} <= set(origin)


def test_a_vocabulary_of_the_user_in_the_runs_folder_stays(trained, tmp_path, monkeypatch):
    mine = tmp_path / "run" / "vocabulary"
    shutil.copytree(trained / "runs" / "a" / "vocabulary", mine)
    (mine / "notes.txt").write_text("mine")
    monkeypatch.chdir(trained)
    arguments = options("texts", tmp_path, max_steps=2, encoder_path=str(mine))
    call(monkeypatch, arguments)
    call(monkeypatch, [*arguments, "--clean"])
    assert (mine / "notes.txt").read_text() == "mine"
    tokenizer = json.loads((mine / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (mine / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="vocabulary"):
        call(monkeypatch, [*arguments, "--set", f"encoder_path={trained}/runs/a/vocabulary"])


def test_files_next_to_data_path_are_found_from_another_folder(texts, tmp_path, monkeypatch, capsys):
    project = tmp_path / "project"
    shutil.copytree(texts, project / "texts")
    held = project / "held.txt"
    (project / "texts" / "39.txt").rename(held)
    monkeypatch.chdir(project)
    arguments = options("texts", project, max_steps=2, model_path="run", eval_split="held.txt", predict_path=None)
    call(monkeypatch, arguments)
    call(monkeypatch, ["--model", "run", "--evaluate"])
    expected = capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    call(monkeypatch, ["--model", "../project/run", "--evaluate"])
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == expected
    assert "warning" not in told.err
    call(monkeypatch, ["--model", "../project/run", "--set", "max_steps=3"])
    assert (project / "run" / "checkpoints" / "3").is_dir()
    assert "first window" not in capsys.readouterr().err
    call(monkeypatch, ["--model", "../project/run", "--evaluate", "--set", f"eval_split={project}/./held.txt"])
    assert "warning" not in capsys.readouterr().err
    held.unlink()
    both = f"eval_split: held.txt is neither in {project}/texts/ .data_path. nor in {tmp_path}/other/; correct the name"
    with pytest.raises(UserError, match=both):
        call(monkeypatch, ["--model", "../project/run", "--evaluate", "--set", "eval_split=held.txt"])


def test_a_run_that_has_saved_a_step_refuses_another_vocabulary(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "texts", tmp_path / "texts")
    shutil.copytree(trained / "runs", tmp_path / "runs")
    own = tmp_path / "runs" / "a" / "vocabulary"
    shutil.copytree(own, tmp_path / "same")
    tokenizers.byte_level_tokenizer().save(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    run = ["--model", "runs/a/config.json"]

    def others(text: str) -> list[str]:
        return [line for line in text.splitlines() if "is not the vocabulary that the run has begun with" in line]

    call(monkeypatch, [*run, "--set", "max_steps=6", "--set", "encoder_path=same"])  # at another place
    before = (tmp_path / "runs" / "a" / "config.json").read_bytes()
    for name in ("other", "nowhere"):
        with pytest.raises(UserError, match=rf"encoder_path: {name} is not the vocabulary .*vocabulary; leave"):
            call(monkeypatch, [*run, "--set", "max_steps=8", "--set", f"encoder_path={name}"])
    assert call(monkeypatch, [*run, "--set", "max_steps=8", "--set", "encoder_path=other", "--check"]) == 2
    assert (tmp_path / "runs" / "a" / "config.json").read_bytes() == before
    told = capsys.readouterr()
    (line,) = others(told.out + told.err)
    assert "leave encoder_path out" in line
    for what in (["--evaluate"], ["--predict_text", "quick", "--length", "2"]):
        call(monkeypatch, [*run, "--set", "encoder_path=other", *what])
        (line,) = others(capsys.readouterr().err)
        assert line.endswith("runs/a/vocabulary, which is used")
    tokenizers.byte_level_tokenizer().save(tmp_path / "same")  # in its place
    call(monkeypatch, [*run, "--set", "max_steps=7"])
    assert len(others(capsys.readouterr().err)) == 1
    shutil.rmtree(tmp_path / "same")
    call(monkeypatch, [*run, "--set", "max_steps=8"])
    assert not others(capsys.readouterr().err)
    assert tokenizers.digest_in(own) != tokenizers.byte_level_tokenizer().digest


def test_a_run_that_has_saved_no_step_begins_with_another_vocabulary(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    tokenizers.byte_level_tokenizer().save(tmp_path / "other")
    arguments = options("texts", tmp_path, max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(Estimator, "_train_steps", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(patch, arguments)
    own = tmp_path / "run" / "vocabulary"
    assert tokenizers.digest_in(own) != tokenizers.byte_level_tokenizer().digest
    arguments += ["--set", f"encoder_path={tmp_path / 'other'}"]
    for what in (["--check"], ["--show_batch", "1"], ["--dry_run"], ["--lr_range_test", "20"]):  # agree with it
        capsys.readouterr()
        assert not call(monkeypatch, [*arguments, *what])
        told = capsys.readouterr()
        assert "which is used" not in told.out + told.err
        if "--show_batch" in what:
            shown = told.out
            assert "read from other data" not in told.err
    nowhere = [*arguments[:-1], "encoder_path=nowhere"]
    assert call(monkeypatch, [*nowhere, "--check"]) == 2
    for what in (["--show_batch", "1"], ["--lr_range_test", "20"]):
        with pytest.raises(UserError, match="encoder_path: nowhere"):
            call(monkeypatch, [*nowhere, *what])
    call(monkeypatch, arguments)
    capsys.readouterr()
    call(monkeypatch, [*arguments, "--show_batch", "1"])
    assert shown.endswith(capsys.readouterr().out)
    assert tokenizers.digest_in(own) == tokenizers.byte_level_tokenizer().digest
    call(monkeypatch, [*arguments, "--clean"])


def test_a_check_finds_that_a_run_has_lost_its_checkpoints(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.chdir(trained)
    run = str(tmp_path / "runs" / "a" / "config.json")
    assert call(monkeypatch, ["--model", run, "--set", "max_steps=8", "--check"]) == 2
    assert "runs/a/checkpoints has no checkpoint to continue from, and" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no checkpoint to continue from"):
        call(monkeypatch, ["--model", run, "--set", "max_steps=8"])


def test_next_to_a_cache_of_another_user_a_run_and_its_check_take_the_own_one(texts, tmp_path, monkeypatch, capsys):
    theirs, mine = tmp_path / "cache", tmp_path / "mine"
    theirs.mkdir()
    access, stat = os.access, os.stat

    def refused(path, *more, **keywords):
        if isinstance(path, str | Path) and Path(path).parent == theirs:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *more, **keywords)

    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs and access(path, mode))
    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setenv("GPT2_CACHE", str(theirs))
    arguments = options(texts, tmp_path, max_steps=1)
    assert call(monkeypatch, [*arguments, "--check"]) == 2
    assert f"error: cache: {theirs}: {theirs} cannot be written to" in capsys.readouterr().err
    monkeypatch.setenv("GPT2_CACHE", str(mine))
    assert call(monkeypatch, [*arguments, "--check"]) == 0
    assert f"a run prepares it in {mine}, unless it is there" in capsys.readouterr().out
    assert call(monkeypatch, arguments) == 0
    assert len(list(mine.glob("text-*"))) == 1
    assert not list(theirs.glob("text-*"))
