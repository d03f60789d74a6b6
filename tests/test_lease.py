"""One process at a time trains in a remote folder, and one that died keeps nobody out."""

import json
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from runtime import lease, run_folder, storage
from runtime.errors import UserError

FOLDER, LOCK = "gs://bucket/run", "gs://bucket/run/lock"
pytestmark = pytest.mark.usefixtures("bucket")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1.5)


def another(**changes):
    contents = {"owner": "other", "host": "other-host", "process": "1 2 3", "beat": 0}
    storage.write_bytes_atomic(LOCK, json.dumps(contents | changes).encode())


def test_while_one_holds_it_another_is_refused():
    with run_folder.locked(FOLDER):
        assert storage.is_file(LOCK)
        with (
            pytest.raises(UserError, match=f"another process, on .*, is training in {FOLDER}"),
            run_folder.locked(FOLDER),
        ):
            pass
        time.sleep(0.5)
        assert json.loads(storage.read_bytes(LOCK))["beat"] > 0
    assert not storage.exists(LOCK)
    with run_folder.locked(FOLDER):
        pass


def test_a_process_of_this_machine_that_was_killed_holds_nothing():
    code = f"import os; from runtime import run_folder\nwith run_folder.locked({FOLDER!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert storage.is_file(LOCK)
    started = time.monotonic()
    with run_folder.locked(FOLDER):
        assert time.monotonic() - started < lease.DEAD_SECONDS


def test_one_of_another_machine_whose_beat_stands_still_is_taken_over(capsys):
    another()
    with run_folder.locked(FOLDER):
        assert json.loads(storage.read_bytes(LOCK))["owner"] != "other"
    assert "was in use by a process on other-host: waiting" in capsys.readouterr().err


def test_one_of_another_machine_whose_beat_goes_on_is_not(monkeypatch):
    another()
    monkeypatch.setattr(time, "sleep", lambda _: another(beat=1))
    with pytest.raises(UserError, match="another process, on other-host"), run_folder.locked(FOLDER):
        pass


def test_a_process_that_was_taken_over_stops_at_once():
    code = f"""
import time
from runtime import lease, run_folder, storage
lease.BEAT_SECONDS = 0.2
with run_folder.locked({FOLDER!r}):
    storage.write_bytes_atomic({LOCK!r}, b'{{"owner": "other"}}')
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "has taken over" in done.stderr) == (2, True), done.stderr
    assert json.loads(storage.read_bytes(LOCK))["owner"] == "other"
