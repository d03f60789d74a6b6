"""Leases: one process at a time trains in a remote directory, and a crashed process does not block others."""

import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from helpers.launching import wait_for

from estimator import storage
from estimator.errors import UserError
from estimator.storage import lease
from estimator.training import run_lock

FOLDER, LOCK = "gs://bucket/run", "gs://bucket/run/lock"
pytestmark = pytest.mark.usefixtures("bucket")


@pytest.fixture
def clock(monkeypatch):
    """A fake clock that advances only while waiting for a lease; returns the list of waits."""
    waits = []
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append))
    return waits


def another(**changes):
    contents = {"owner": "other", "host": "other-host", "process": "1 2 3", "beat": 0}
    storage.write_bytes_atomic(LOCK, json.dumps(contents | changes).encode())


def test_while_one_holds_it_another_is_refused():
    with run_lock.locked(FOLDER):
        assert storage.is_file(LOCK)
        with (
            pytest.raises(UserError, match=f"another process, on .*, is training in {FOLDER}"),
            run_lock.locked(FOLDER),
        ):
            pass
    assert not storage.exists(LOCK)
    with run_lock.locked(FOLDER):
        pass


def test_the_holder_writes_a_new_beat_each_time(monkeypatch):
    beats, write = [], storage.write_bytes_atomic

    def written(path, contents):
        write(path, contents)
        beats.append(json.loads(contents)["beat"])

    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(storage, "write_bytes_atomic", written)
    with run_lock.locked(FOLDER):
        wait_for(lambda: len(beats) > 2)
    assert beats[:3] == [1, 2, 3]
    assert not storage.exists(LOCK)


def test_a_process_of_this_machine_that_was_killed_holds_nothing(clock):
    code = f"import os; from estimator.training import run_lock\nwith run_lock.locked({FOLDER!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert storage.is_file(LOCK)
    with run_lock.locked(FOLDER):
        assert not clock


def test_one_of_another_machine_whose_beat_stands_still_is_taken_over(capsys, clock):
    another()
    with run_lock.locked(FOLDER):
        assert json.loads(storage.read_bytes(LOCK))["owner"] != "other"
    assert sum(clock) > lease.DEAD_SECONDS
    assert "was in use by a process on other-host: waiting" in capsys.readouterr().err


def test_one_of_another_machine_whose_beat_goes_on_is_not(monkeypatch, clock):
    another()
    monkeypatch.setattr(lease.time, "sleep", lambda _: another(beat=1))
    with pytest.raises(UserError, match="another process, on other-host"), run_lock.locked(FOLDER):
        pass


def test_without_proc_the_beat_decides_on_this_machine_too(monkeypatch, capsys, clock):
    monkeypatch.setattr(lease, "_process", lambda _: "")  # as on macOS
    host = socket.gethostname()
    another(host=host, process="")
    with run_lock.locked(FOLDER):
        assert json.loads(storage.read_bytes(LOCK))["owner"] != "other"
    assert sum(clock) > lease.DEAD_SECONDS
    assert f"was in use by a process on {host}: waiting" in capsys.readouterr().err

    another(host=host, process="")
    watch = lease.Watch(LOCK)
    assert watch.is_held()
    clock.append(lease.DEAD_SECONDS + 1)
    assert not watch.is_held()


def test_without_proc_one_of_this_machine_whose_beat_goes_on_is_refused(monkeypatch, clock):
    monkeypatch.setattr(lease, "_process", lambda _: "")
    another(host=socket.gethostname(), process="")
    monkeypatch.setattr(lease.time, "sleep", lambda _: another(host=socket.gethostname(), process="", beat=1))
    with pytest.raises(UserError, match="another process, on "), run_lock.locked(FOLDER):
        pass


def test_a_process_that_was_taken_over_stops_at_once():
    code = f"""
import time
from estimator import storage
from estimator.storage import lease
from estimator.training import run_lock
lease.BEAT_SECONDS = 0.05
with run_lock.locked({FOLDER!r}):
    for _ in range(6000):  # a beat may be written between two of these
        storage.write_bytes_atomic({LOCK!r}, b'{{"owner": "other"}}')
        time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "has taken over" in done.stderr) == (2, True), done.stderr
    assert json.loads(storage.read_bytes(LOCK))["owner"] == "other"
