"""Run directories: cleaning removes only files of the run, and the remaining ones suffice to use it elsewhere."""

import json
import os
import tempfile

import pytest
from helpers.main_runs import call, options
from helpers.processes import finish, start_two

from estimator import storage
from estimator.errors import UserError
from estimator.format_version import NEWEST_SPLIT, SplitRules
from estimator.storage import cache_root
from estimator.training import run_dir, run_lock


@pytest.mark.parametrize("name", ["e[12]", "e?", "e*"])
def test_cleaning_a_run_whose_name_is_a_pattern_touches_no_other(tmp_path, name):
    for folder in (name, "e1", "e2"):
        run = tmp_path / folder
        (run / "checkpoints" / "7").mkdir(parents=True)
        (run / "events.out.tfevents.1").touch()
        (run / "config.json").write_text(json.dumps({"model_path": str(run), "train_batch_size": 1}))
    run_dir.clean(tmp_path / name)
    assert list((tmp_path / name).iterdir()) == []
    for folder in ("e1", "e2"):
        kept = {path.name for path in (tmp_path / folder).iterdir()}
        assert kept == {"checkpoints", "events.out.tfevents.1", "config.json"}


def test_a_training_notices_that_its_folder_is_another_one_now(tmp_path):
    folder = tmp_path / "run"
    with run_lock.locked(folder) as check:
        check()
        with pytest.raises(UserError, match="another process is training"), run_lock.locked(tmp_path / "." / "run"):
            pass
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(UserError, match="another process is training"), run_lock.locked(tmp_path / "link"):
            pass
        (folder / "lock").unlink()
        check()
        folder.rename(tmp_path / "old")
        with pytest.raises(UserError, match="removed, moved or replaced"):
            check()
        with run_lock.locked(folder), pytest.raises(UserError, match="removed, moved or replaced"):
            check()


def test_cleaning_keeps_a_link_of_the_user_and_empties_what_it_leads_to(tmp_path):
    disk, run = tmp_path / "disk", tmp_path / "run"
    (disk / "7").mkdir(parents=True)
    (disk / "notes.txt").write_text("mine")
    run.mkdir()
    (run / "checkpoints").symlink_to(disk)
    (run / "config.json").write_text(json.dumps({"model_path": str(run), "train_batch_size": 1}))
    run_dir.clean(run)
    assert [path.name for path in disk.iterdir()] == ["notes.txt"]
    assert [path.name for path in run.iterdir()] == ["checkpoints"]


def test_an_output_is_no_file_of_the_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    for name in ("scores.csv", "predictions.jsonl", "predictions.txt", "../metrics.jsonl", "more/metrics.jsonl"):
        run_dir.require_foreign(str(tmp_path / "run" / name), "--out", tmp_path / "run")
    run_dir.require_foreign("gs://bucket/runs/metrics.jsonl", "--out", "gs://bucket/run")
    run_dir.require_foreign("gs://bucket/metrics.jsonl", "--out", tmp_path)
    for name in ("metrics.jsonl", "evaluations.jsonl", "config.json", "lock", "vocabulary/x.csv", "checkpoints/1/x"):
        for folder in ("run", "link"):
            with pytest.raises(UserError, match=f"--out .*{name}: the run keeps its {name.partition('/')[0]} there"):
                run_dir.require_foreign(str(tmp_path / folder / name), "--out", tmp_path / "run")
        with pytest.raises(UserError, match="the run keeps"):
            run_dir.require_foreign(f"gs://bucket/run/{name}", "--out", "gs://bucket/run")


def test_a_run_does_not_begin_where_it_could_not_save(tmp_path):
    (tmp_path / "checkpoints").touch()
    (tmp_path / "best").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="checkpoints is a file, and the run needs a folder"):
        run_dir.require_layout(tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "vocabulary")
    (tmp_path / "best").rename(tmp_path / "kept")
    with pytest.raises(UserError, match="vocabulary is a file"):
        run_dir.require_layout(tmp_path)
    (tmp_path / "vocabulary").unlink()
    (tmp_path / "kept").rename(tmp_path / "best")
    with pytest.raises(UserError, match="best is a link that leads nowhere"):
        run_dir.require_layout(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    (tmp_path / "best").unlink()
    run_dir.require_layout(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "events.out.tfevents.1", "lock"])
def test_a_run_does_not_begin_where_a_folder_has_the_name_of_its_file(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, and the run needs a file of this name"):
        run_dir.require_layout(tmp_path)
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "unmounted" / name)
    with pytest.raises(UserError, match=f"{name} is a link into a folder that does not exist"):
        run_dir.require_layout(tmp_path)
    (tmp_path / "unmounted").mkdir()
    run_dir.require_layout(tmp_path)
    os.mkfifo(tmp_path / "unmounted" / name)
    with pytest.raises(UserError, match=f"{name} is no regular file"):
        run_dir.require_layout(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is a link that leads back to itself"):
        run_dir.require_layout(tmp_path)


def test_a_run_that_resumes_with_other_arrays_names_the_keys_that_changed(corpus, tmp_path, monkeypatch):
    call(monkeypatch, options(corpus, tmp_path, max_steps=1, warmup_steps=0, opt_name="muon"))
    for changes, line in (
        ({"neuron_beta2": 0.9}, "neuron_beta2: null before, 0.9 now"),
        ({"train_only": "transformer"}, 'train_only: null before, "transformer" now'),
        ({"n_embd": 32}, "n_embd: 16 before, 32 now"),
    ):
        with pytest.raises(
            UserError, match=r"take the values that it was trained with, or .*; keys that changed since, .*:"
        ) as told:
            call(monkeypatch, options(corpus, tmp_path, warmup_steps=0, **{"opt_name": "muon", **changes}))
        assert str(told.value).splitlines()[1:] == [f"  {line}"]


@pytest.mark.parametrize(
    ("first", "changes", "can_begin"),
    [
        ({}, {"n_ctx": 24}, True),
        ({}, {"n_vocab": 600}, True),
        ({"lora_rank": 2}, {"lora_rank": 4}, True),
        ({}, {"n_layer": 2}, False),
    ],
)
def test_init_from_is_advised_where_it_works(corpus, tmp_path, monkeypatch, first, changes, can_begin):
    common = {"max_steps": 2, "warmup_steps": 0, "eval_steps": 0, "predict_path": None}
    call(monkeypatch, options(corpus, tmp_path, **(common | first)))
    with pytest.raises(UserError, match="was written by another model or optimizer") as told:
        call(monkeypatch, options(corpus, tmp_path, **(common | first | changes)))
    advised = "or init_from this run, with another model_path" in str(told.value)
    assert "or another model_path" in str(told.value) or advised
    other = {"init_from": str(tmp_path / "run"), "model_path": str(tmp_path / "other")}
    arguments = options(corpus, tmp_path, **(common | first | changes | other))
    if can_begin:
        assert call(monkeypatch, arguments) == 0
    else:
        with pytest.raises(UserError):
            call(monkeypatch, arguments)
    assert advised == can_begin


@pytest.mark.slow
def test_two_processes_end_where_the_run_could_not_save(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").touch()
    for output in finish(start_two(options(corpus, tmp_path)), code=2):
        assert "best is a file, and the run needs a folder of this name" in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best"]


def test_cleaning_removes_temporary_files_that_a_kill_left_behind(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_path": str(tmp_path), "train_batch_size": 1}))
    for name in ("progress.json", "metrics.jsonl"):
        with pytest.raises(KeyboardInterrupt), storage.replacing(tmp_path / name) as temporary:
            raise KeyboardInterrupt
        temporary.touch()  # as after SIGKILL
    run_dir.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    for name in ("GPT2_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache_root.Path, "home", homeless)
    assert cache_root.root().is_relative_to(tempfile.gettempdir())


@pytest.mark.parametrize("name", [run_dir.VOCABULARY, run_dir.ORIGIN])
def test_changed_files_of_a_run_are_damaged_and_not_of_another_vocabulary_or_data(tmp_path, name):
    values = {"model_path": str(tmp_path), "train_batch_size": 1}
    run_dir.begin(tmp_path, values, vocabulary="ab", origin={"content": "ab"})
    path = tmp_path / name
    path.write_text(path.read_text().replace('"ab"', '"cb"'))
    with pytest.raises(UserError, match=f"{name} is damaged: .*restore it from a copy"):
        run_dir.begin(tmp_path, values, vocabulary="ab", origin={"content": "ab"})
    old = {run_dir.VOCABULARY: "digest", run_dir.ORIGIN: "content"}[name]
    path.write_text(json.dumps({old: "ab"}))  # as older versions wrote it
    assert run_dir.begin(tmp_path, values, vocabulary="ab", origin={"content": "ab"}) == []
    begun = run_dir.begin(tmp_path, values, vocabulary="ab", origin={"content": "cd"})
    assert begun == ["the text to evaluate on, and not that to train on"]
    begun = run_dir.begin(tmp_path, values, vocabulary="ab", origin={"content": "cd"}, change_of_order="the order")
    assert begun == ["the order"]


def test_relative_files_are_those_of_data_path_or_of_where_the_run_was_trained(tmp_path, monkeypatch):
    run, shards, elsewhere = tmp_path / "run", tmp_path / "shards", tmp_path / "elsewhere"
    for folder in (run, shards, elsewhere):
        folder.mkdir()
    for path in (shards / "a_0.npy", shards / "b_0.npy", tmp_path / "b_0.npy", tmp_path / "c_0.npy"):
        path.touch()
    (run / "origin.json").write_text(json.dumps({"working_directory": str(tmp_path)}))
    values = {"model_path": "run", "data_path": "shards"}
    values |= {"dataset": [[["a_*", "b_0.npy"], 2.0], ["c_*", 1.0]], "eval_split": ["b_0.npy", "c_0.npy", "d_0.npy"]}
    monkeypatch.chdir(elsewhere)
    found = run_dir.where_it_is(values, "../run/config.json")
    assert found["data_path"] == str(shards)
    assert found["dataset"] == [[["a_*", "b_0.npy"], 2.0], [f"{tmp_path}/c_*", 1.0]]
    assert found["eval_split"] == ["b_0.npy", f"{tmp_path}/c_0.npy", "d_0.npy"]
    for split in (None, 0.1, [1, 2]):
        assert run_dir.where_it_is(values | {"eval_split": split}, "../run/config.json")["eval_split"] == split


def test_an_evaluation_of_another_split_or_data_is_noticed(tmp_path):
    values = {"model_path": str(tmp_path), "train_batch_size": 1, "eval_split": None, "data_path": "texts"}
    assert run_dir.other_split(tmp_path, values, content="a") == []
    run_dir.begin(tmp_path, values, vocabulary=None, origin={"content": "a", "data_path": "texts"})
    assert run_dir.other_split(tmp_path, values | {"data_path": "./texts"}, content="a") == []
    (line,) = run_dir.other_split(tmp_path, values | {"eval_split": 0.2}, content="a")
    assert line == "the run was trained with eval_split null"
    (line,) = run_dir.other_split(tmp_path, values, content="b")
    assert line == "the run was trained on other data (texts)"


def test_a_name_with_brackets_that_exists_where_the_run_was_trained_is_no_pattern_elsewhere(tmp_path, monkeypatch):
    run, there, here = tmp_path / "run", tmp_path / "there", tmp_path / "here"
    for folder in (run, there / "da[1]", here / "da1", here / "db1", here / "shards"):
        folder.mkdir(parents=True)
    (here / "shards" / "v1.npy").touch()
    (there / "v[1].npy").touch()
    (run / "origin.json").write_text(json.dumps({"working_directory": str(there)}))
    monkeypatch.chdir(here)

    def found(**values):
        return run_dir.where_it_is({"model_path": "run", **values}, "../run/config.json")

    assert found(data_path="da[1]")["data_path"] == str(there / "da[1]")
    assert found(data_path="db[1]")["data_path"] == "db[1]"  # a pattern
    assert found(data_path="shards", eval_split="v[1].npy")["eval_split"] == str(there / "v[1].npy")
    (here / "da[1]").mkdir()
    assert found(data_path="da[1]")["data_path"] == "da[1]"


def test_the_directory_that_a_run_was_trained_in_is_no_pattern_for_others(tmp_path, monkeypatch):
    run, there, other = tmp_path / "run", tmp_path / "project [12]", tmp_path / "project 1"
    for folder in (run, there / "texts", other / "texts"):
        folder.mkdir(parents=True)
    (run / "origin.json").write_text(json.dumps({"working_directory": str(there)}))
    monkeypatch.chdir(tmp_path)
    for entry in ("texts", "te*"):
        assert run_dir.where_it_is({"model_path": "run", "data_path": entry}, "run/config.json")["data_path"] == str(
            there / entry
        )
    (there / "texts").rename(there / "gone")
    there.rename(tmp_path / "moved")
    for entry in ("texts", "te*"):
        assert run_dir.where_it_is({"model_path": "run", "data_path": entry}, "run/config.json")["data_path"] == entry


def test_a_run_keeps_the_rules_by_which_names_divided_its_text(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    values = {"model_path": "run", "train_batch_size": 2}
    assert run_dir.split_rules(new) == NEWEST_SPLIT
    new.mkdir()
    for _ in range(2):
        run_dir.begin(new, values, vocabulary=None)
        assert run_dir.split_rules(new) == NEWEST_SPLIT
    old.mkdir()
    (old / "config.json").write_text(json.dumps(values))  # without origin.json, as the first versions
    for _ in range(2):
        assert run_dir.split_rules(old) == SplitRules.FOLDERS
        run_dir.begin(old, values, vocabulary=None)
    (old / "origin.json").write_text(json.dumps({"split_by_names": True}))  # as the first that went by names wrote it
    for _ in range(2):
        assert run_dir.split_rules(old) == SplitRules.FILES
        run_dir.begin(old, values, vocabulary=None)
