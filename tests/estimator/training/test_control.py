"""Commands to a running training: all processes obey them at the same step, log them, and replay them on resume."""

import fcntl
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import ROOT, one_device
from helpers.launching import wait_for
from helpers.main_runs import call, final_parameters, options
from helpers.processes import finish, start_two

from estimator import storage
from estimator.data.batches import Batches
from estimator.errors import EXIT_APART, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_STOPPED, UserError
from estimator.launch.supervisor import _ending
from estimator.storage import lease
from estimator.training import control_watch, metrics_log
from estimator.training.bad_steps import BadStep, RollBackError
from estimator.training.control_commands import obeyed
from estimator.training.control_files import Answer, ControlFolder, Entry, Request
from estimator.training.control_watch import ControlWatch
from estimator.training.live_control import LiveControl
from estimator.training.prefetch import StepPlan

KEYS = {"save_steps": 2, "keep_checkpoints": 20, "sample_length": 4, "schedule": "constant"}


def events(folder) -> list[dict]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        {key: value for key, value in record.items() if key != "time"}
        for record in records
        if record.get("event") == "control"
    ]


def control(run, *words, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "control.py"), str(run), *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def at_step(monkeypatch):
    """Writes requests to the control directory when the data of a step is read, and waits until they are handled."""
    requests: dict[int, list[tuple]] = {}
    folders: list[str] = []
    taken = threading.Semaphore(0)
    devices = one_device()
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(control_watch, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(control_watch, "REMOTE_POLL_SECONDS", 0.02)
    read, take, refuse = Batches.__call__, ControlWatch._take, ControlWatch._refuse

    def reading(batches, step):
        for words in requests.pop(step, ()):
            if len(words) == 1:
                ControlFolder(folders[0])._write("faulty.json", words[0])
            else:
                ControlFolder(folders[0]).send(*words)
            assert taken.acquire(timeout=60)
        return read(batches, step)

    def done(method):
        def run(*arguments):
            method(*arguments)
            taken.release()

        return run

    monkeypatch.setattr(Batches, "__call__", reading)
    monkeypatch.setattr(ControlWatch, "_take", done(take))
    monkeypatch.setattr(ControlWatch, "_refuse", done(refuse))
    return lambda folder, **steps: (folders.append(folder), requests.update(steps["requests"]))


def test_live_commands_are_repeated_by_resumes_to_the_bits_of_an_undisturbed_run(
    corpus, tmp_path, monkeypatch, at_step
):
    live = tmp_path / "live" / "run"
    commands = [("lr", 0.0002), ("evaluate", None), ("save", None), ("sample", None)]
    at_step(str(live), requests={6: [(b'{"command": "fly"}',), *commands]})
    call(monkeypatch, options(corpus, tmp_path / "live", **KEYS))
    history = [json.loads(line) for line in (live / "control" / "history.jsonl").read_text().splitlines()]
    assert [(line["command"], line["value"]) for line in history] == commands
    step = history[0]["step"]
    assert 0 < step < 12
    logged = events(live)
    assert sorted(event["command"] for event in logged) == ["evaluate", "lr", "rejected", "sample", "save"]
    answers = [ControlFolder(str(live)).answer_to(line["request"]) for line in history]
    assert answers[0] == Answer(True, step, f"from step {step} on, the schedule's highest rate is 0.0002")
    assert all(answer and answer.ok for answer in answers)
    assert (live / "samples" / f"{history[3]['step']}.jsonl").is_file()
    assert (live / "checkpoints" / str(history[2]["step"])).is_dir()
    assert (live / "control" / "rejected" / "faulty.json").read_bytes() == b'{"command": "fly"}'
    faulty = ControlFolder(str(live)).answer_to("faulty")
    assert not faulty.ok
    assert "no command 'fly'" in faulty.message
    rates = {
        r["step"]: r["lr"] for r in map(json.loads, (live / "metrics.jsonl").read_text().splitlines()) if "lr" in r
    }
    config = json.loads((live / "config.json").read_text())
    assert rates[step + 1] == pytest.approx(0.0002)
    assert rates[step] == pytest.approx(config["lr"])

    undisturbed = tmp_path / "undisturbed" / "run"
    shutil.copytree(live / "control", undisturbed / "control")
    call(monkeypatch, options(corpus, tmp_path / "undisturbed", **KEYS, iterations=5))
    killed = {"before": step - 1, "after": step}
    for name, last in killed.items():  # a kill may leave older checkpoints together with records of later steps
        shutil.copytree(live, tmp_path / name / "run")
        for path in (tmp_path / name / "run" / "checkpoints").iterdir():
            if path.name.isdigit() and int(path.name) > last:
                shutil.rmtree(path)
        call(monkeypatch, options(corpus, tmp_path / name, **KEYS))
    _, expected = final_parameters(monkeypatch, options(corpus, tmp_path / "live"))
    for name in ("undisturbed", *killed):
        _, params = final_parameters(monkeypatch, options(corpus, tmp_path / name))
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        repeated = [event for event in logged if event["command"] != "rejected"]
        assert [event for event in events(tmp_path / name / "run") if event["command"] != "rejected"] == repeated


def test_a_rate_in_the_file_replaces_one_that_was_commanded(tmp_path):
    folder = ControlFolder(str(tmp_path))
    folder.record(Entry(4, "b", "lr", 0.5, peak=1.0))
    folder.record(Entry(2, "a", "lr", 0.25, peak=1.0))
    live = LiveControl(str(tmp_path), 3, session=None, peak=1.0)
    other = LiveControl(str(tmp_path), 3, session=None, peak=2.0)
    live.close()
    other.close()
    assert live.steps == [4]
    assert [live.rate(step)[0] for step in (1, 2, 3, 4, 9)] == [1.0, 0.25, 0.25, 0.5, 0.5]
    assert other.rate(9) == (1.0, "lr 0.5, commanded at step 4, is replaced by lr 2 of the file")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"save", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b'{"command": "save"}' + b" " * 20000, "not an object"),
        (b'["save"]', "not an object"),
        (b'{"command": "save", "when": 1}', "not an object"),
        (b'{"command": ["save"]}', "no command"),
        (b'{"command": "save", "value": 1}', "save takes no value"),
        (b'{"command": "lr"}', "lr needs a value"),
        (b'{"command": "lr", "value": NaN}', "lr needs a value"),
        (b'{"command": "lr", "value": true}', "lr needs a value"),
        (b'{"command": "lr", "value": -1}', "lr needs a value"),
    ],
)
def test_a_file_that_is_no_request_is_moved_aside_when_it_no_longer_grows(data, fault, tmp_path):
    folder = ControlFolder(str(tmp_path))
    path = tmp_path / "control" / "mine.json"
    path.parent.mkdir()
    path.write_bytes(data[:3])
    assert folder.requests() == []
    path.write_bytes(data)
    assert folder.requests() == []
    ((name, message),) = folder.requests()
    assert name == "mine"
    assert fault in message
    assert not path.exists()
    assert (tmp_path / "control" / "rejected" / "mine.json").read_bytes() == data


@pytest.mark.parametrize("line", ["[]", '{"step": 1, "request": "a", "command": "lr", "value": 1' + "0" * 400 + "}"])
def test_a_damaged_history_and_answers_of_other_programs_are_named(line, tmp_path):
    (tmp_path / "control" / "answers").mkdir(parents=True)
    (tmp_path / "control" / "history.jsonl").write_text(line)
    with pytest.raises(UserError, match="jsonl is damaged"):
        ControlFolder(str(tmp_path)).history()
    (tmp_path / "control" / "answers" / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="not an answer of a run"):
        ControlFolder(str(tmp_path)).answer_to("a")


def test_a_save_that_fails_or_the_end_of_the_run_overtakes_is_answered(tmp_path):
    def failed():
        raise UserError("No space left on device")

    checkpoints = SimpleNamespace(is_writing=False, raise_failure=failed)
    session: Any = SimpleNamespace(checkpoints=checkpoints, is_paused=True)
    live = LiveControl(str(tmp_path), 7, session, peak=1.0)
    live._unanswered.append((Request("a", "save"), "saved step 7"))
    with pytest.raises(UserError, match="No space left"):
        live.obey(7, session)
    live.close()
    answer = ControlFolder(str(tmp_path)).answer_to("a")
    assert not answer.ok
    assert "before it was on disk" in answer.message


def test_a_command_next_to_a_bad_step_is_answered_and_not_recorded_as_obeyed(tmp_path, monkeypatch):
    monkeypatch.setattr(ControlWatch, "_run", lambda self: None)  # requests are taken here, and not by its thread

    def flush():
        raise RollBackError(BadStep(21, "the loss is not finite", math.nan, 1.0, None))

    live = LiveControl(str(tmp_path), 20, SimpleNamespace(flush=flush), peak=1.0)  # type: ignore[arg-type]
    folder = ControlFolder(str(tmp_path))
    name = folder.send("stop")
    assert live._watch
    live._watch._take(*folder.requests())  # type: ignore[arg-type]
    with pytest.raises(RollBackError):
        live.obey(22, None)  # type: ignore[arg-type]
    live.close()
    assert folder.history() == []
    assert folder.requests() == []
    answer = folder.answer_to(name)
    assert answer == Answer(False, 22, "stop: the run ended, or rolled back, before it could obey")


def test_the_status_of_a_paused_run_says_since_when(tmp_path):
    session: Any = SimpleNamespace(monitor=SimpleNamespace(status="step 5, loss 1.0000"), is_paused=False)
    live = LiveControl(str(tmp_path), 1207, session, peak=1.0)

    def status() -> str:
        live._watch._take(Request("a", "status"))
        return ControlFolder(str(tmp_path)).answer_to("a").message

    assert status() == "step 5, loss 1.0000"
    obeyed(Request("b", "pause"), session, 1207, session, peak=1.0)
    session.paused_at -= 3600
    assert re.fullmatch(
        r"paused after step 1,207, for 1:\d\d:\d\d \(h:mm:ss\) so far; .*: step 5, loss 1.0000", status()
    )
    obeyed(Request("c", "resume"), session, 1207, session, peak=1.0)
    assert status() == "step 5, loss 1.0000"
    live.close()


def test_a_launcher_does_not_start_a_stopped_run_again():
    assert _ending([EXIT_STOPPED, EXIT_STOPPED], silent=False).code == EXIT_INTERRUPTED
    assert _ending([EXIT_STOPPED, None], silent=False).code == EXIT_INTERRUPTED


def test_a_launcher_names_the_worker_that_failed_rather_than_those_that_lost_it():
    killed = _ending([EXIT_APART, 137, EXIT_APART], silent=False)
    assert killed.code is None
    assert killed.reason == "worker 1 was killed (SIGKILL)"
    assert _ending([EXIT_APART, EXIT_ERROR, EXIT_APART], silent=False).code == EXIT_ERROR
    assert _ending([EXIT_APART, EXIT_ERROR, 137], silent=False).reason == "worker 2 was killed (SIGKILL)"
    assert _ending([EXIT_APART, None], silent=False).reason == "worker 0 did not find, or lost, another one"


def test_groups_of_steps_end_where_commands_are_repeated():
    plan = list(StepPlan(3, 20, max_steps_per_call=1, stops=(10,), ends=(5, 12)))
    assert len(plan) == 17
    plan = StepPlan(3, 20, max_steps_per_call=8, stops=(10,), ends=(5, 12))
    plan.seconds_per_step = 0.01
    assert list(plan) == [(3, 2), (5, 5), (10, 2), (12, 8)]


def test_a_run_in_a_bucket_is_commanded(bucket, corpus, tmp_path, monkeypatch, at_step):
    at_step("gs://bucket/run", requests={3: [("evaluate", None), ("stop", None)]})
    arguments = options(corpus, tmp_path, **KEYS | {"model_path": "gs://bucket/run"})
    assert call(monkeypatch, arguments) == EXIT_STOPPED
    folder = ControlFolder("gs://bucket/run")
    evaluated, stopped = folder.history()
    assert (evaluated.command, stopped.command) == ("evaluate", "stop")
    assert folder.answer_to(evaluated.request).message.startswith(f"evaluated step {evaluated.step}: eval loss")
    assert folder.answer_to(stopped.request).message.startswith(f"saved step {stopped.step} and stopped")
    assert storage.children("gs://bucket/run/control", "*.json") == []


def test_a_lease_in_a_bucket_shows_whether_a_run_is_alive(bucket):
    watch = lease.Watch("gs://bucket/run/lock")
    assert not watch.is_held()
    with lease.held("gs://bucket/run/lock", folder="gs://bucket/run"):
        assert watch.is_held()
    assert not watch.is_held()


def test_without_a_run_the_program_says_so_and_leaves_nothing(tmp_path):
    assert "no such folder" in control(tmp_path / "no", "save", code=2)
    assert "no run is alive" in control(tmp_path, "save", code=2)
    (tmp_path / "lock").write_text("1\nhost\n")  # left by a run that has ended
    assert "no run is alive" in control(tmp_path, "stop", "--no-wait", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1200, "split": "train", "loss": 2.5}\n')
    config = tmp_path / "config.json"
    message = f"alive in this folder: step 1,200, loss 2.5000; continue it with python3 main.py --model {config}\n"
    assert message in control(tmp_path, "status", code=2)


def test_the_status_of_a_run_that_has_ended_says_whether_it_is_complete(corpus, tmp_path, monkeypatch, at_step):
    changes = {"max_steps": 6, "log_steps": 1, "train_steps": 6}
    at_step(tmp_path / "run", requests={3: [("stop", None)]})
    assert call(monkeypatch, options(corpus, tmp_path, **KEYS | changes)) == EXIT_STOPPED
    said = control(tmp_path / "run", "status", code=2)
    assert re.search(
        r"in this folder: step \d of 6, loss \d.*; continue it with python3 main\.py --model .*config", said
    )
    assert call(monkeypatch, options(corpus, tmp_path, **KEYS | changes)) == 0
    said = control(tmp_path / "run", "status")
    assert re.fullmatch(r"complete at step 6 of 6, loss \d\.\d{4}, eval loss \d\.\d{4}\n", said)
    assert "no run is alive in this folder: complete at step 6 of 6" in control(tmp_path / "run", "save", code=2)
    log = tmp_path / "run" / "metrics.jsonl"  # as earlier versions wrote it
    log.write_text(re.sub(r'"(total_steps|is_complete)": \w+, ', "", log.read_text()))
    assert control(tmp_path / "run", "status").startswith("complete at step 6 of 6")


def test_what_a_run_cannot_obey_is_refused(tmp_path):
    """A process holds the lock without responding, then exits."""
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "lr needs a value" in control(tmp_path, "lr", code=2)
        assert "save takes no value" in control(tmp_path, "save", "1", code=2)
        assert control(tmp_path, "save", "--no-wait") == ""
        assert [request.command for request in ControlFolder(str(tmp_path)).requests()] == ["save"]
        waiting = subprocess.Popen(
            [sys.executable, str(ROOT / "control.py"), str(tmp_path), "save"], stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: len(ControlFolder(str(tmp_path)).requests()) == 2)
    _, err = waiting.communicate(timeout=300)
    assert waiting.returncode == 2
    assert "the run ended before it answered" in err
    assert len(ControlFolder(str(tmp_path)).requests()) == 1


def test_two_processes_obey_at_one_step(corpus, tmp_path):
    changes = {
        **KEYS,
        "schedule": "constant",
        "max_steps": 1_000_000,
        "log_steps": 1,
        "eval_steps": 1,
        "max_loss_jump": 9,
    }
    processes = start_two(options(corpus, tmp_path, **changes | {"train_steps": 500_000, "save_steps": None}))
    run = tmp_path / "run"
    while not (run / "metrics.jsonl").exists() or '"train"' not in (run / "metrics.jsonl").read_text():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    assert "the schedule's highest rate is 0.0001" in control(run, "lr", "0.0001")
    assert "evaluated step" in control(run, "evaluate")
    assert "the run is not paused" in control(run, "resume")
    assert "paused at step" in control(run, "pause")
    assert "the run was already paused" in control(run, "pause")
    assert "resumed at step" in control(run, "resume")
    assert "saved step" in control(run, "stop")
    first, second = finish(processes, code=EXIT_STOPPED)
    assert "control: stop: saved step" in first
    assert "control:" not in second
    rate, *_, stop = ControlFolder(str(run)).history()
    assert [event["command"] for event in events(run)] == [
        *("lr", "evaluate", "resume", "pause", "pause", "resume", "stop")
    ]
    assert any(record.get("pause_seconds") for record in metrics_log.read(run / "metrics.jsonl"))
    undisturbed = tmp_path / "undisturbed"
    (undisturbed / "run" / "control").mkdir(parents=True)
    shutil.copy(run / "control" / "history.jsonl", undisturbed / "run" / "control")
    end = {"max_steps": stop.step, "train_steps": 500_000, "save_steps": None, "log_steps": 10_000}
    finish(start_two(options(corpus, undisturbed, **changes | end)))
    parameters = [
        final_parameters(pytest.MonkeyPatch(), options(corpus, folder))[1] for folder in (tmp_path, undisturbed)
    ]
    jax.tree.map(np.testing.assert_array_equal, *parameters)
    assert rate.step < stop.step
