"""File formats: files of each format's first release can be loaded, and those of later versions are rejected."""

import contextlib
import json
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from google_crc32c import value as crc32c
from helpers.main_runs import call

from estimator import format_version
from estimator.corpus.build import cache_records, plan
from estimator.errors import UserError
from estimator.launch import run_store
from estimator.launch.gcp import ledger
from estimator.search.trials import TrialStore
from estimator.shards import discovery
from estimator.shards.npy_files import Ends
from estimator.shards.shard import INDEX_HEADER
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import control_files, progress, run_dir
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import Checkpoints

WORDS = "The quick brown fox jumps over the lazy dog. "
TEXTS = [WORDS[number:] + WORDS * 12 + f"Document {number} ends.\n" for number in range(8)]
NEWER = r"by a newer version of this program: its format is version 9, .* up to [12] .*; update this program"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Unpacks files of the first releases."""
    folder = tmp_path_factory.mktemp("formats")
    for path in (ROOT / "tests" / "formats").glob("*.tar.xz"):
        with tarfile.open(path) as tar:
            tar.extractall(folder / path.name.partition(".")[0], filter="data")
    return folder


def records(run: Path) -> dict[tuple[str, int], dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {(each["split"], each["step"]): each for each in map(json.loads, lines)}


def test_the_first_run_continues_with_the_losses_that_it_had(files, tmp_path, monkeypatch):
    shutil.copytree(files / "run", tmp_path, dirs_exist_ok=True)
    before = records(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, ["--model", "x.json", "--set", "report=false"])
    after = records(tmp_path / "run")
    for key in (("train", 3), ("train", 4), ("eval", 4)):
        assert after[key]["time"] > before[key]["time"]
        assert after[key]["loss"] == pytest.approx(before[key]["loss"], rel=1e-4)
    assert json.loads((tmp_path / "run" / "origin.json").read_text())["format"] == 1
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["format"] == 1
    saved = json.loads((tmp_path / "run" / "checkpoints" / "4" / "_CHECKPOINT_METADATA").read_text())
    run = json.loads((tmp_path / "run" / "origin.json").read_text())["run"]  # which runs of earlier versions get
    assert saved["custom_metadata"] == {"format": 1, "run": run}


def test_the_first_sweep_has_its_trials_and_their_best_weights(files, tmp_path, monkeypatch, capsys):
    shutil.copytree(files / "stores", tmp_path, dirs_exist_ok=True)
    store = TrialStore(tmp_path / "sweep")
    store.require_same(json.loads((tmp_path / "sweep" / "sweep.json").read_text()))
    assert [trial.values for trial in store.trials] == [{"lr": 0.01}, {"lr": 0.001}]
    assert {trial.state for trial in store.trials} == {"complete"}
    losses = [loss for _, loss in store.trials[0].reports]
    run = tmp_path / "sweep" / "0000"
    assert losses == [record["loss"] for (split, _), record in records(run).items() if split == "eval"]
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, ["--model", "sweep/0000.json", "--evaluate", "--set", "load_best=true"])
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert lines[-1]["loss"] == pytest.approx(min(losses), rel=1e-4)
    span = progress.span_of(run, 4)
    assert span
    assert (span.step, span.tokens_at(4)) == (0, 4 * 4 * 16)
    assert json.loads((run / "samples" / "4.jsonl").read_text())["prompt"] == "The"


def test_the_first_progress_file_counts_its_tokens(files):
    run = files / "stores" / "early"
    before, span = progress.span_of(run, 10), progress.span_of(run, 11)
    assert before
    assert span
    assert (before.tokens_at(10), span.tokens_at(12), span.window_at(12)) == (640, 640 + 2 * 8 * 16, 40 + 2 * 8)
    assert span.data == {"windows_per_epoch": 107, "data_seed": 0}


@pytest.mark.parametrize("form", ["run/shards", "stores/shards", "stores/npy", "stores/npz"])
def test_the_first_shards_have_their_texts(files, form):
    tokenizer = tokenizers.load(files / "run" / "encoder")
    paths = discovery.find([str(files / form)])
    shards = discovery.open_all(paths, ends=Ends(tokenizer.end_of_text), cache=files / "cache")
    (shard,) = shards.values()
    assert sorted(tokenizer.decode(shard.tokens(number)) for number in range(len(shard))) == sorted(TEXTS)


def test_the_first_records_of_control_and_launches_are_read(files, monkeypatch):
    control = control_files.ControlFolder(str(files / "stores" / "controlled"))
    first, second = control.history()
    assert first == control_files.Entry(2, "a", "lr", 0.005, 0.01)
    assert second == control_files.Entry(3, "b", "save")
    assert control.answer_to("b") == (True, 3, "saved step 3")
    assert [request[1:] for request in control.requests()] == [("lr", 0.001)]
    monkeypatch.setenv("GPT2_CLUSTER", str(files / "stores" / "cluster"))
    creation = ledger.recorded("my-tpu")
    assert creation
    assert (creation.kind, creation.token, creation.spot, creation.complete) == ("v6e-16", "0a1b2c3d", True, False)
    (launched,) = run_store.known("my-tpu")
    assert (launched.step, launched.arguments, launched.cloud) == (1200, ["--set", "lr=0.001"], {"zone": "us-east5-b"})


def renumbered(path: Path, values: dict | None = None) -> Path:
    """Sets the version of a JSON file."""
    values = json.loads(path.read_text().splitlines()[0]) if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values | {"format": 9}))
    return path


def newer_run(files: Path) -> None:
    renumbered(files / "run" / "run" / "origin.json", {})
    run_dir.config_before(files / "run" / "run")


def newer_progress(files: Path) -> None:
    renumbered(files / "run" / "run" / "progress.json", {"segments": []})
    progress.span_of(files / "run" / "run", 3)


def newer_checkpoint(files: Path) -> None:
    path = files / "run" / "run" / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {"format": 9}}))
    with contextlib.closing(Checkpoints(files / "run" / "run" / "checkpoints")) as checkpoints:
        restore(checkpoints, {})


def newer_manifest(files: Path) -> None:
    path = files / "stores" / "npy" / "fox.json"
    renumbered(path, json.loads(path.read_text()) | {"shards": ["fox_0.npy"]})
    discovery.find([str(files / "stores" / "npy")])


def newer_index(files: Path) -> None:
    path = files / "run" / "shards" / "fox_0.tfrecords.index"
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 9)
    header = INDEX_HEADER.size
    data[header : header + 4] = struct.pack("<I", crc32c(bytes(data[:header])))
    path.write_bytes(data)
    discovery.open_all(discovery.find([str(files / "run" / "shards")]), ends=Ends(279), cache=files / "cache")


def newer_plan(files: Path) -> None:
    renumbered(files / "plan.jsonl", {})
    plan.read_plan(files)


def newer_text_cache(files: Path) -> None:
    (files / "prepared.json").write_text(json.dumps({"fingerprint": {"format": 9}}))
    cache_records.shards(files, [{}], needs_encoder=False)


def newer_sweep(files: Path) -> None:
    renumbered(files / "stores" / "sweep" / "sweep.json", {})
    TrialStore(files / "stores" / "sweep")


def newer_launch(files: Path) -> None:
    (path,) = (files / "stores" / "cluster" / "runs").glob("*/run.json")
    run_store.read(renumbered(path, {"machines": []}))


def newer_creation(files: Path) -> None:
    renumbered(files / "stores" / "cluster" / "created" / "my-tpu.json", {})
    ledger.recorded("my-tpu")


@pytest.mark.parametrize(
    "read",
    [ newer_run, newer_progress, newer_checkpoint, newer_manifest, newer_index, newer_plan,
     newer_text_cache, newer_sweep, newer_launch, newer_creation],
)  # fmt: skip
def test_files_of_a_later_version_are_refused(read, files, tmp_path, monkeypatch):
    copy = shutil.copytree(files, tmp_path / "files")
    monkeypatch.setenv("GPT2_CLUSTER", str(copy / "stores" / "cluster"))
    with pytest.raises(UserError, match=NEWER):
        read(copy)


@pytest.mark.parametrize("version", ["1", 1.0, True, None, 0, -1])
def test_what_is_no_version_is_damage(version):
    with pytest.raises(UserError, match=r"x.json is damaged: its format is .* not a version"):
        format_version.check({"format": version}, "x.json")


def test_lists_of_shards_of_other_programs_may_have_a_format(tmp_path):
    (tmp_path / "fox.json").write_text('{"format": "mds", "shards": [{"size": 3}]}')
    assert discovery.read_manifest(tmp_path, "fox") is None


def test_a_request_of_a_later_version_of_control_is_refused():
    assert control_files.parse("a", b'{"format": 1, "command": "save"}') == ("a", "save", None)
    with pytest.raises(ValueError, match="newer version of"):
        control_files.parse("a", b'{"format": 2, "command": "save", "when": 9}')


def test_a_changed_bit_in_the_version_of_an_index_is_damage_and_it_is_made_again(files, tmp_path):
    shards = shutil.copytree(files / "run" / "shards", tmp_path / "shards")
    index = shards / "fox_0.tfrecords.index"
    valid = index.read_bytes()
    index.write_bytes(valid[:8] + b"\x09" + valid[9:])
    (shard,) = discovery.open_all(discovery.find([str(shards)]), ends=Ends(279), cache=tmp_path).values()
    assert np.sum(shard.token_counts) == 2290


def test_a_list_of_shards_that_is_nested_without_end_is_none(tmp_path):
    (tmp_path / "fox.json").write_text("[" * 3000)
    assert discovery.read_manifest(tmp_path, "fox") is None
    assert not discovery.is_split_by_tokens([tmp_path / "fox_0.npy"])
