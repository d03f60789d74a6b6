"""Checks of a run's output paths before training."""

import os

import pytest

from estimator.errors import UserError
from estimator.training.preflight import require_place, write_problems


def test_a_relative_path_of_a_file_that_exists_can_be_appended_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.txt").write_text("earlier samples")
    assert write_problems([("predict_path", "samples.txt"), ("predict_path", str(tmp_path / "samples.txt"))]) == []


def test_a_folder_cannot_be_made_inside_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    (problem,) = write_problems([("model_path", "taken/run")])
    assert problem.startswith("model_path: taken/run: ")
    assert "is a file, and a folder is needed" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    (problem,) = write_problems([("model_path", str(tmp_path / "run"))])
    assert "cannot be written to" in problem


def test_a_model_path_that_is_a_file_or_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (tmp_path / "file").touch()
    for path in ("link", "link/run"):
        with pytest.raises(UserError, match=r"model_path: .*/link is a link that leads nowhere"):
            require_place(str(tmp_path / path))
    with pytest.raises(UserError, match="file is a file, and a folder is needed"):
        require_place(str(tmp_path / "file"))
    require_place(str(tmp_path / "new" / "run"))
    assert len(list(tmp_path.iterdir())) == 2
