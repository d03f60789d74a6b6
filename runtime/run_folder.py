"""What a run's folder holds. One process writes to it at a time; emptying it takes nothing else along."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime import lease, storage
from runtime.errors import UserError

CONFIG, VOCABULARY, LOCK = "config.json", "vocabulary.json", "lock"
OURS = ("checkpoints", "metrics.jsonl", "predictions.txt", "events.out.tfevents.*", VOCABULARY, LOCK, CONFIG)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from training in it; the system frees the lock of one that dies."""
    if storage.is_remote(folder):
        with lease.held(storage.join(str(folder), LOCK), folder=str(folder)):
            yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is training in {folder}; stop it, or choose another model_path") from None
        yield


def begin(folder: str | Path, values: dict[str, Any], *, vocabulary: str | None) -> list[str]:
    """Writes the keys in force, and the digest of the vocabulary; returns a line for each key that has changed."""
    check_vocabulary(folder, vocabulary)
    before = read_config(folder) if storage.is_file(_in(folder, CONFIG)) else values
    _write(_in(folder, CONFIG), values)
    if vocabulary:
        _write(_in(folder, VOCABULARY), {"digest": vocabulary})
    return [
        f"{key}: {json.dumps(before.get(key))} before, {json.dumps(value)} now"
        for key, value in values.items()
        if key in before and before[key] != value
    ]


def check_vocabulary(folder: str | Path, digest: str | None) -> None:
    """UserError when a run's ids mean other tokens now than when it began."""
    path = _in(folder, VOCABULARY)
    if digest and storage.is_file(path) and _read(path).get("digest") != digest:
        raise UserError(
            f"{folder} was trained with another vocabulary than the one in use now; give encoder_path that one, or "
            "choose another model_path to start anew"
        )


def read_config(folder: str | Path) -> dict[str, Any]:
    """The keys that a run is, or was, going with."""
    path = _in(folder, CONFIG)
    values = _read(path) if storage.is_file(path) else {}
    if not {"model_path", "train_batch_size"} <= set(values):
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG} of ours")
    return values


def clean(folder: str | Path) -> None:
    """Removes what a run wrote, and nothing else; refuses a folder that is not a run's."""
    if not (any(Path(folder).iterdir()) if Path(folder).is_dir() else storage.is_folder(str(folder))):
        return
    read_config(folder)
    with locked(folder):
        # The mark of a run goes last: a clean that was interrupted can be repeated.
        for pattern in OURS:
            if pattern == LOCK and storage.is_remote(folder):
                continue  # `locked` takes it away
            for path in storage.glob(_in(folder, pattern)):
                storage.remove(path)


def _in(folder: str | Path, name: str) -> str:
    return storage.join(str(folder), name)


def _read(path: str) -> dict[str, Any]:
    try:
        return json.loads(storage.read_bytes(path).decode())
    except ValueError:
        raise UserError(f"{path} is not valid JSON; restore it or remove it") from None


def _write(path: str, values: dict[str, Any]) -> None:
    storage.write_bytes_atomic(path, (json.dumps(values, indent=2) + "\n").encode())
