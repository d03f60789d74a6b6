"""User-supplied paths are expanded, or rejected before any work is done."""

from pathlib import Path

import pytest
from conftest import ROOT
from helpers.main_runs import call, options

from estimator.errors import UserError
from estimator.storage import user_paths

SPELLED_OUT = {
    "~/runs": "/home/me/runs",
    "$DATA/texts": "/data/texts",
    "${DATA}": "/data",
    "file:///tmp/a%20b": "/tmp/a b",
    "file:/tmp/x": "/tmp/x",
    "file://localhost/tmp/x": "/tmp/x",
    "gs://bucket/x": "gs://bucket/x",
    "s3://bucket/lr[1]": "s3://bucket/lr[1]",
    "runs\\a": "runs\\a",
    "a:b/c": "a:b/c",
    "x$y": "x$y",
}
REFUSED = {
    "runs/\ud800": "no file can have this name",
    "gs:/bucket/x": "write gs://bucket/x",
    "s3:/bucket": "write s3://bucket",
    "gs:bucket/x": "write gs://bucket/x",
    "S3:": "s3://BUCKET/FOLDER",
    "GS://bucket/x": "write gs://bucket/x",
    "gs://": "gs://BUCKET/FOLDER",
    "hdfs://a/b": "gs://.* or s3://",
    "https://x.org/y": "gs://.* or s3://",
    "file://host/x": "another host",
    "C:\\runs\\a": "Windows path",
    "d:/runs": "Windows path",
    "\\\\server\\share": "Windows path",
    "$NOT_SET_HERE/x": "no such variable",
    "~nobody_of_this_name/x": "home directory",
    "": "empty",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOT_SET_HERE", raising=False)


@pytest.mark.parametrize(("written", "meant"), SPELLED_OUT.items())
def test_a_path_is_spelled_out(written, meant):
    assert user_paths.argument(written) == meant


@pytest.mark.parametrize(("written", "message"), REFUSED.items())
def test_what_is_no_path_here_is_refused_with_the_fix(written, message):
    with pytest.raises(UserError, match=message):
        user_paths.argument(written)


@pytest.mark.parametrize("key", ["model_path", "data_path", "encoder_path", "predict_path", "init_from", "eval_split"])
def test_every_key_that_names_files_is_checked_before_anything_is_made(key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{key}: gs:/bucket/x: write gs://bucket/x"):
        call(monkeypatch, options(tmp_path, tmp_path, **{key: "gs:/bucket/x"}))
    assert list(Path(tmp_path).iterdir()) == []


def test_an_output_that_would_replace_an_input_or_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("text")
    (tmp_path / "link.txt").symlink_to("in.txt")
    user_paths.require_output("out.csv", "--out", inputs=["in.txt"])
    user_paths.require_output("new/out.txt", "predict_path", inputs=["in.txt"], makes_folder=True)
    for path, fault in {
        "link.txt": "reads this file", str(tmp_path): "is a folder", "new/out.csv": "does not exist"
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"--out {path}.*{fault}"):
            user_paths.require_output(path, "--out", inputs=["in.txt"])


def test_a_file_in_configs_that_is_not_here_is_that_of_the_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = str(ROOT / "configs" / "tiny.json")
    assert user_paths.config_file("configs/tiny.json") == own
    assert capsys.readouterr().err == f"note: the current folder has no configs/tiny.json; {own} is read\n"
    for path in ("configs/none.json", "tiny.json", "other/tiny.json", "gs://bucket/configs/tiny.json"):
        assert user_paths.config_file(path) == path
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.json").write_text("{}")
    assert user_paths.config_file("configs/tiny.json") == "configs/tiny.json"
