"""Locks that only one process can hold at a time."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from estimator.storage import locks

HOLD = """
import sys
from estimator.storage import locks
with locks.exclusive(sys.argv[1], "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Starts a process that holds the lock until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path, other):
    assert locks.is_held(tmp_path / "lock")
    with (
        pytest.raises(locks.Busy, match=rf"busy \(process {other.pid} on "),
        locks.exclusive(tmp_path / "lock", "busy"),
    ):
        pass
    other.kill()
    other.wait()
    assert not locks.is_held(tmp_path / "lock")
    with locks.exclusive(tmp_path / "lock", "busy"):
        pass


def test_a_lock_is_waited_for_and_a_line_says_so(tmp_path, other, monkeypatch):
    lines = []

    class Console:
        def write(self, text):
            lines.append(text)
            other.stdin.close()  # the other process exits after the message is printed

        def flush(self):
            pass

    monkeypatch.setattr(locks, "SEEN_SECONDS", 0.01)
    monkeypatch.setattr(locks.sys, "stderr", Console())
    with locks.exclusive(tmp_path / "lock", "busy", wait=True):
        assert other.wait() == 0
    assert lines[0] == f"busy (process {other.pid} on {socket.gethostname()}); waiting for it"


def test_readers_keep_an_exclusive_lock_away_and_a_removed_file_is_locked_anew(tmp_path):
    first, second = locks.share(tmp_path / "lock"), locks.share(tmp_path / "lock")
    for file in (first, second):
        with pytest.raises(locks.Busy), locks.exclusive(tmp_path / "lock", "busy"):
            pass
        file.close()
    with locks.exclusive(tmp_path / "lock", "busy", remove=True):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_flock_a_marker_file_is_the_lock(code, tmp_path, monkeypatch, capsys):
    """As on NFS without its lock service."""

    def flock(*_):
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    holder = rf"busy \(process {os.getpid()} on "
    with (
        locks.exclusive(tmp_path / "lock", "busy"),
        pytest.raises(locks.Busy, match=holder),
        locks.exclusive(tmp_path / "lock", "busy"),
    ):
        pass
    with locks.exclusive(tmp_path / "lock", "busy"):
        pass
    locks.share(tmp_path / "shared").close()
    assert "shared: this file system has no locks" in capsys.readouterr().err


def test_a_lock_is_free_again_where_its_file_cannot_be_removed(tmp_path, monkeypatch):
    def read_only(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    for _ in range(2):
        with pytest.raises(OSError, match="Read-only"), locks.exclusive(tmp_path / "lock", "busy", remove=True):
            pass
