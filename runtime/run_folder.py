"""What a run's folder holds. One process writes to it at a time; emptying it takes nothing else along."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import UserError

CONFIG, VOCABULARY, LOCK = "config.json", "vocabulary.json", "lock"
OURS = ("checkpoints", "metrics.jsonl", "predictions.txt", "events.out.tfevents.*", VOCABULARY, LOCK, CONFIG)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from training in it; the system frees the lock of one that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is training in {folder}; stop it, or choose another model_path") from None
        yield


def begin(folder: Path, values: dict[str, Any], *, vocabulary: str | None) -> list[str]:
    """Writes the keys in force, and the digest of the vocabulary; returns a line for each key that has changed."""
    check_vocabulary(folder, vocabulary)
    before = read_config(folder) if (folder / CONFIG).exists() else values
    _write(folder / CONFIG, values)
    if vocabulary:
        _write(folder / VOCABULARY, {"digest": vocabulary})
    return [
        f"{key}: {json.dumps(before.get(key))} before, {json.dumps(value)} now"
        for key, value in values.items()
        if key in before and before[key] != value
    ]


def check_vocabulary(folder: Path, digest: str | None) -> None:
    """UserError when a run's ids mean other tokens now than when it began."""
    path = folder / VOCABULARY
    if digest and path.exists() and _read(path).get("digest") != digest:
        raise UserError(
            f"{folder} was trained with another vocabulary than the one in use now; give encoder_path that one, or "
            "choose another model_path to start anew"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The keys that a run is, or was, going with."""
    path = folder / CONFIG
    values = _read(path) if path.exists() else {}
    if not {"model_path", "train_batch_size"} <= set(values):
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG} of ours")
    return values


def clean(folder: Path) -> None:
    """Removes what a run wrote, and nothing else; refuses a folder that is not a run's."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    read_config(folder)
    with locked(folder):
        # The mark of a run goes last: a clean that was interrupted can be repeated.
        for pattern in OURS:
            for path in folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is not valid JSON; restore it or remove it") from None


def _write(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
