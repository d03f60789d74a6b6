"""Keeps two processes from training in one remote folder, where there are no file locks.

The holder creates an object that must not exist yet and writes a new beat into it every few seconds. A lease whose beat
stops, or whose process is known to have died, is taken over; a holder that finds itself replaced exits immediately.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estimator import json_text, storage
from estimator.errors import EXIT_ERROR, UserError
from estimator.storage.retry import Missing

BEAT_SECONDS = 15.0
DEAD_SECONDS = 60.0  # without a new beat


@contextlib.contextmanager
def held(path: str, *, folder: str) -> Iterator[None]:
    """Holds the lease in the object `path` of a run's folder; UserError where another process does."""
    owner = {"owner": secrets.token_hex(8), "host": socket.gethostname(), "process": _process(os.getpid())}
    _acquire(path, owner, folder=folder)
    done = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, owner, done), daemon=True, name="lease")
    beats.start()
    try:
        yield
    finally:
        done.set()
        beats.join()
        with contextlib.suppress(UserError):
            if _read(path).get("owner") == owner["owner"]:
                storage.remove(path)


class Watch:
    """Whether a process holds a lease, as seen by repeated looks: one whose beat stops is dead after DEAD_SECONDS."""

    def __init__(self, path: str):
        self._path, self._last, self._since = path, dict[str, Any](), time.monotonic()

    def is_held(self) -> bool:
        try:
            current = _read(self._path)
        except Missing:
            return False
        if (alive := _alive(current)) is not None:
            return alive
        if current != self._last:
            self._last, self._since = current, time.monotonic()
        return time.monotonic() - self._since < DEAD_SECONDS


def _acquire(path: str, owner: dict[str, Any], *, folder: str) -> None:
    first: dict[str, Any] = {}
    since = time.monotonic()
    while not storage.create(path, _contents(owner, 0)):
        try:
            current = _read(path)
        except Missing:
            continue
        alive = _alive(current)
        if alive or (first and current != first):
            _refuse(current, folder)
        if not first:
            first, since = current, time.monotonic()
            if alive is None:
                seconds, host = f"{DEAD_SECONDS:.0f} seconds", current.get("host")
                note = f"{folder} was in use by a process on {host}: waiting {seconds} to see whether it is alive"
                print(note, file=sys.stderr, flush=True)
        if alive is False or time.monotonic() - since > DEAD_SECONDS:
            storage.remove(path)
        else:
            time.sleep(1.0)


def _refuse(current: dict[str, Any], folder: str) -> None:
    raise UserError(
        f"another process, on {current.get('host')}, is training in {folder}; stop it, or choose another model_path"
    )


def _beat(path: str, owner: dict[str, Any], done: threading.Event) -> None:
    number = 0
    while not done.wait(BEAT_SECONDS):
        number += 1
        try:
            if _read(path).get("owner") != owner["owner"]:
                raise Missing
            storage.write_bytes_atomic(path, _contents(owner, number))
        except Missing:
            # Files that this process would still write could mix with those of the other one.
            print(f"error: another process has taken over {path}; this one stops", file=sys.stderr, flush=True)
            os._exit(EXIT_ERROR)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)


def _contents(owner: dict[str, Any], beat: int) -> bytes:
    return json.dumps(owner | {"beat": beat}).encode()


def _read(path: str) -> dict[str, Any]:
    try:
        found = json_text.loads(storage.read_bytes(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alive(current: dict[str, Any]) -> bool | None:
    """Whether the holder lives; None where this machine cannot tell, and the beat decides."""
    process = str(current.get("process") or "")
    if current.get("host") != socket.gethostname() or not process:
        return None
    return process == _process(int(process.split()[0]))


def _process(number: int) -> str:
    """Number and start time of a living process here, since numbers are reused; "" without one, or without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return (
            f"{number} {Path(f'/proc/{number}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()[19]} {boot}"
        )
    except OSError:
        return ""
