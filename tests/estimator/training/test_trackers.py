"""Experiment trackers receive every step of a run exactly once, despite kills, outages, and missing packages."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.runs import write_run

import models
import optimizers
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.generation.completion import PredictionConfig
from estimator.training import tracker_process, trackers
from estimator.training.metrics_writers import MetricsLog
from estimator.training.run_config import RunConfig
from estimator.training.tracker_clients import values

PYTHON = Path(os.environ.get("GPT2_TRACKERS_PYTHON", ROOT / ".venv" / "trackers" / "bin" / "python"))


class Recording:
    """An in-memory tracker. faults: exceptions of upcoming calls of `write`, or None for success."""

    runs: dict[str, list[tuple[str, int, float]]]
    opened: list
    faults: list[Exception | None]

    def __init__(self, run):
        self.id = run.id
        self.opened.append(run)
        self.rows = self.runs.setdefault(run.id, [])

    def write(self, records):
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        self.rows += [(record["split"], record["step"], record["loss"]) for record in records]

    def close(self):
        self.rows.append(("closed", 0, 0.0))


@pytest.fixture
def tracker(monkeypatch):
    client = type("Recorder", (Recording,), {"runs": {}, "opened": [], "faults": []})
    monkeypatch.setitem(trackers.CLIENTS, "wandb", client)
    monkeypatch.setattr(trackers, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(trackers, "BATCH", 7)
    return client


def send(folder, *, resume_step=0, **options):
    ended = threading.Event()
    ended.set()
    with open(folder / "metrics.jsonl", "rb") as file:
        trackers.Sender("wandb", str(folder), resume_step=resume_step, **options).run(file, ended)


def configured(folder, **changes):
    values = {"model_path": str(folder), "train_batch_size": 8, "lr": 0.1, "log_steps": 1}
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def rows(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(record["split"], record["step"], record["loss"]) for record in records]


def cut(folder, step):
    """Truncates the log as a resume does."""
    path = folder / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
    path.write_text("".join(lines))
    return lines


def test_every_record_is_sent_once(tracker, tmp_path):
    folder = configured(write_run(tmp_path / "demo"))
    send(folder)
    [(_, sent)] = tracker.runs.items()
    assert sent == [*rows(folder), ("closed", 0, 0.0)]
    assert [(run.name, run.is_new) for run in tracker.opened] == [("demo", True)]


def test_a_resumed_run_goes_into_the_same_run_without_its_repeated_steps(tracker, tmp_path):
    folder = configured(write_run(tmp_path / "demo"))
    whole = rows(folder)
    later = (folder / "metrics.jsonl").read_text()
    cut(folder, 25)
    send(folder)
    cut(folder, 20)
    (folder / "metrics.jsonl").write_text(later)  # trained again from step 20
    configured(folder, log_steps=2)  # does not change the metrics
    send(folder, resume_step=20)
    [(_, sent)] = tracker.runs.items()
    assert [row for row in sent if row[0] != "closed"] == whole
    assert [(run.is_new, run.changed) for run in tracker.opened] == [(True, {}), (False, {"log_steps": 2})]


# Keys that change the numbers of a step, or may change their last bits.
COUNTED = {
    "model", "n_ctx", "n_vocab", "n_embd", "n_layer", "n_head", "n_inner", "n_hidden", "untied_head", "activation",
    "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "embed_dropout", "attn_dropout",
    "res_dropout", "noise", "scale_by_depth", "scale", "scale_by_in", "precision", "attention", "remat", "scan_layers",
    "init_from", "init_state", "train_only", "freeze_layers", "lr_scale", "lora_rank", "lora_alpha",
    "opt_name", "lr", "lr_min", "schedule", "warmup_steps", "restart_steps", "decay_fraction", "weight_decay",
    "decay_all", "grad_clip", "beta1", "beta2", "epsilon", "decay_type", "decay_exponent", "relative_lr", "momentum",
    "ns_steps", "neuron_beta2",
    "input", "text_format", "text_key", "documents", "separator", "text_encoding", "special", "on_error", "chat_loss",
    "chat_voice", "dataset", "sampling", "n_ctx_min", "separate_documents", "stitch", "eval_split", "data_seed",
    "budget", "train_batch_size", "eval_batch_size", "micro_batch_size", "mesh", "max_steps", "max_tokens",
    "max_epochs", "eval_steps", "on_bad_step", "max_loss_jump", "max_grad_norm_jump", "iterations", "seed",
}  # fmt: skip


def test_every_key_is_known_to_change_the_numbers_or_not():
    sections = [optimizers.OptimizerConfig, InputConfig, RunConfig, PredictionConfig]
    sections += [model.Config for model in models.MODELS.values()]
    keys = {key for section in sections for key in section.model_fields}
    assert keys == COUNTED | trackers.NEUTRAL
    assert not COUNTED & trackers.NEUTRAL


@pytest.mark.parametrize(
    ("key", "value", "is_other"),
    [
        *(("train_batch_size", 4, True), ("eval_split", "b.txt", True), ("eval_steps", None, True)),
        *(("data_path", "b", False), ("content", "b", True), ("content", "a", False), ("top_k", 4, False)),
    ],
)
def test_what_changes_the_numbers_makes_a_run_of_its_own(tracker, tmp_path, key, value, is_other):
    folder = write_run(tmp_path / "demo")
    before = {"eval_split": "a.txt", "eval_steps": 4, "data_path": "a", "top_k": 0}

    def start(content: str, **changes):
        (folder / "origin.json").write_text(json.dumps({"content": content}))
        configured(folder, **(before | changes))

    start("a")
    send(folder)
    cut(folder, 20)
    if key == "content":
        start(value)
    else:
        start("a", **{key: value})
    send(folder, resume_step=20)
    assert len(tracker.runs) == 1 + is_other


@pytest.mark.parametrize("why", ["settings", "rollback"])
def test_other_numbers_after_a_checkpoint_make_a_run_of_their_own(tracker, tmp_path, why):
    folder = configured(write_run(tmp_path / "demo"))
    send(folder)
    cut(folder, 20)
    if why == "settings":
        configured(folder, lr=0.01)
    send(folder, resume_step=20, is_replay=why == "settings")
    _, second = tracker.runs.values()
    assert second == [*rows(folder), ("closed", 0, 0.0)]
    assert tracker.opened[-1].name == "demo from step 20"
    send(folder, resume_step=20)  # the next start continues the new tracker run
    assert tracker.opened[-1].id == list(tracker.runs)[1]
    assert not tracker.opened[-1].is_new
    assert len([row for row in second if row[0] == "train"]) == 20


def test_settings_that_change_where_nothing_repeats_stay_in_the_run(tracker, tmp_path):
    folder = configured(write_run(tmp_path / "demo", steps=20))
    send(folder)
    configured(folder, lr=0.01)
    send(folder, resume_step=20)
    assert len(tracker.runs) == 1
    assert tracker.opened[-1].changed == {"lr": 0.01}


def test_a_tracker_that_fails_is_tried_again_and_misses_nothing(tracker, tmp_path, capsys):
    folder = configured(write_run(tmp_path / "demo"))
    tracker.faults[:] = [None, ConnectionError("no route\nto host"), ConnectionError("no"), None, OSError("x")]
    send(folder)
    [(_, sent)] = tracker.runs.items()
    assert sent == [*rows(folder), ("closed", 0, 0.0)]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [f"warning: wandb: {text}; it is tried again" for text in ("no route to host", "x")]


def test_a_kill_while_sending_repeats_nothing(tracker, tmp_path):
    folder = configured(write_run(tmp_path / "demo"))
    tracker.faults[:] = [None, None, KeyboardInterrupt()]  # simulates a kill: the exception is not handled
    with pytest.raises(KeyboardInterrupt):
        send(folder)
    send(folder, resume_step=0)
    [(_, sent)] = tracker.runs.items()
    steps = [row for row in sent if row[0] != "closed"]
    assert len(steps) == len(set(steps))
    assert set(steps) == set(rows(folder)) - set(rows(folder)[14:21])  # the batch being sent at the time of the kill


def test_numbers_that_are_not_finite_are_named():
    record = {"step": 1, "tokens": 8, "split": "train", "loss": None, "lr": 0.1, "mfu": None, "time": 1.0}
    assert values(record) == {"train/tokens": 8.0, "train/lr": 0.1, "train/loss_is_not_finite": 1.0}


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # a directory of runs, not the package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    absent = tracker_process.missing(["wandb", "mlflow", "json"])
    assert absent == ["wandb", "mlflow"]
    with pytest.raises(UserError, match="pip install wandb mlflow"):
        tracker_process.require(absent)
    tracker_process.require([])


FAKE = """
import json, sys, time
def init(**options):
    if {hangs}:
        time.sleep(3600)
    return Run(options)
class Run:
    def __init__(self, options):
        self.options, self.rows = options, []
        print("chatter")
    def define_metric(self, *names, **options): pass
    def log(self, row): self.rows.append(row)
    def finish(self):
        with open({out!r}, "a") as file:
            file.write(json.dumps([self.options["name"], self.rows]) + chr(10))
class Settings:
    def __init__(self, **options): pass
"""


def fake_wandb(monkeypatch, tmp_path, *, hangs=False):
    out = tmp_path / "sent.jsonl"
    (tmp_path / "wandb.py").write_text(FAKE.format(out=str(out), hangs=hangs))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return out


def test_the_log_of_a_training_run_reaches_the_tracker(tmp_path, monkeypatch, capfd):
    out = fake_wandb(monkeypatch, tmp_path)
    monkeypatch.setattr(tracker_process, "END_SECONDS", 120.0)
    folder = tmp_path / "run"
    records = [{"step": step, "tokens": step, "split": "train", "loss": 2.0, "time": 1.0} for step in range(1, 5)]
    for resume_step, part in ((0, records[:3]), (2, records[2:])):
        log = MetricsLog(folder, resume_step=resume_step, trackers=["wandb"])
        for record in part:
            log.write(record)
        log.event({"step": 3, "split": "event", "event": "sample", "time": 1.0})
        log.close()
    sent = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[row["step"] for row in rows] for _, rows in sent] == [[1, 2, 3], [4]]
    assert sent[0][1][0] == {"step": 1, "train/tokens": 1.0, "train/loss": 2.0}
    assert "chatter" in (folder / "trackers" / "wandb.log").read_text()
    assert "chatter" not in "".join(capfd.readouterr())


def test_a_tracker_that_hangs_is_left_behind(tmp_path, monkeypatch, capfd):
    fake_wandb(monkeypatch, tmp_path, hangs=True)
    monkeypatch.setattr(tracker_process, "END_SECONDS", 0.1)
    log = MetricsLog(tmp_path / "run", resume_step=0, trackers=["wandb"])
    log.write({"step": 1, "tokens": 1, "split": "train", "loss": 2.0, "time": 1.0})
    log.close()
    assert "warning: wandb: not done yet; process" in capfd.readouterr().err
    for process in log._trackers:
        process._process.kill()
        process._process.wait()


# The real packages, in a separate environment.

READ = {
    "mlflow": """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/trackers/mlflow.db")
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
points = {run.info.run_name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
          for run in runs}
status, rates = [run.info.status for run in runs], [run.data.params["lr"] for run in runs]
print(json.dumps({"points": points, "status": status, "lr": rates}))
""",
    "trackio": """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
points = {}
for name in SQLiteStorage.get_runs("gpt2"):
    logs = SQLiteStorage.get_logs("gpt2", name)
    points[name] = [(row["step"], row["train/loss"]) for row in logs if "train/loss" in row]
print(json.dumps({"points": points}))
""",
    "wandb": """
import glob, json, sys
from wandb.proto import wandb_internal_pb2 as pb
def records(path):  # a log of LevelDB: blocks of 32 KiB, in which a record may be cut into parts
    data, place, parts = open(path, "rb").read(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
points = {}
for path in sorted(glob.glob(f"{sys.argv[1]}/trackers/wandb/offline-run-*/*.wandb")):
    for record in records(path):
        if record.HasField("run"):
            name = record.run.display_name
        elif record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if "train/loss" in row:
                points.setdefault(name, []).append((row["step"], row["train/loss"]))
print(json.dumps({"points": points}))
""",
}


@pytest.mark.parametrize("name", list(READ))
def test_real_trackers_have_every_step_once_after_a_resume(tmp_path, name):
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True).returncode:
        pytest.skip(f"no {name}; pip install {name} into an environment named by GPT2_TRACKERS_PYTHON")
    folder = configured(write_run(tmp_path / "demo", evaluations=False, steps=30))
    whole = (folder / "metrics.jsonl").read_text()
    here = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "WANDB"))} | here

    def run(*arguments):
        done = subprocess.run(
            [PYTHON, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    module = ["-m", "estimator.training.trackers", str(folder), name]
    cut(folder, 20)
    run(*module)
    (folder / "metrics.jsonl").write_text(whole)
    run(*module, "--resume_step", "10")  # the same values again, then new ones
    configured(folder, lr=0.2)
    run(*module, "--resume_step", "25")  # different values after step 25
    result = json.loads(run("-c", READ[name], str(folder)).splitlines()[-1])
    expected = [[step, 5 / step + 2] for step in range(1, 31)]
    assert sorted(result["points"].values(), key=len) == [expected, expected]
    assert len(result["points"]) == 2
    if name == "mlflow":
        assert set(result["status"]) == {"FINISHED"}
        assert sorted(result["lr"]) == ["0.1", "0.2"]
        assert not (tmp_path / "mlflow.db").exists()
