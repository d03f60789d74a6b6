"""A checkpoint that another run has written is not continued by mistake; those of earlier versions are."""

import json
import shutil

import pytest
from helpers.main_runs import call, options, write_corpus

from estimator.errors import UserError
from estimator.json_text import sealed
from estimator.training import run_dir, run_identity


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def description(run, step):
    return run / "checkpoints" / str(step) / run_identity.DESCRIPTION


def test_a_checkpoint_of_another_run_is_not_continued(texts, tmp_path, monkeypatch):
    def train(name, steps):
        arguments = options(texts, tmp_path, max_steps=steps)
        return call(monkeypatch, [*arguments, "--set", f"model_path={tmp_path / name}", "--set", "predict_path=null"])

    a, b = tmp_path / "a", tmp_path / "b"
    for name, steps in (("a", 2), ("b", 3)):
        assert not train(name, steps)
    shutil.copytree(b / "checkpoints" / "3", a / "checkpoints" / "3")
    origin = (a / "origin.json").read_bytes()
    with pytest.raises(UserError, match=r"a/checkpoints/3 was written by another run .*a/origin\.json.*move it out"):
        train("a", 4)
    assert (a / "origin.json").read_bytes() == origin
    shutil.move(a / "checkpoints" / "3", tmp_path / "3")
    assert not train("a", 4)  # as advised
    identity = run_dir.identity(a)
    assert identity
    assert identity != run_dir.identity(b)
    assert json.loads(description(a, 4).read_bytes())["custom_metadata"]["run"] == identity

    shutil.copytree(b, tmp_path / "copy")  # all of a run
    assert not train("copy", 4)

    record = json.loads((b / "origin.json").read_bytes())
    record.pop("checksum")
    del record["run"]
    (b / "origin.json").write_text(json.dumps(sealed(record)))  # as earlier versions wrote it
    values = json.loads(description(b, 3).read_bytes())
    assert values["custom_metadata"].pop("run")
    description(b, 3).write_text(json.dumps(values))
    assert not train("b", 4)
    shutil.copytree(tmp_path / "b" / "checkpoints" / "3", a / "checkpoints" / "5")
    run_identity.require_own(str(a), 5)  # nothing says which run it is of


def test_a_run_that_has_lost_its_origin_keeps_the_identifier_of_its_checkpoints(tmp_path):
    path = description(tmp_path, 7)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"custom_metadata": {"format": 1, "run": "ab"}}))
    assert run_identity.chosen(str(tmp_path), 7) == "ab"
    later = description(tmp_path, 10)
    later.parent.mkdir()
    later.write_text(json.dumps({"custom_metadata": {"format": 1}}))  # as an earlier version continues the run
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    assert run_identity.chosen(str(tmp_path), 10) == "ab"
    for damaged in ("{", "[]", '{"custom_metadata": null}', '{"custom_metadata": {"run": 3}}'):
        path.write_text(damaged)
        assert run_identity.chosen(str(tmp_path), 7) != run_identity.chosen(str(tmp_path), 7)
        run_identity.require_own(str(tmp_path), 7)
