"""Records of the runs that were launched from this machine: one JSON file each, which outlives the launcher.

The folder is $GPT2_CLUSTER, or `gpt2/cluster` in the user's cache. A run has a folder `runs/ID` with `run.json`,
`launcher` (locked by the launcher that looks after it) and, when it shall end, `stop`.
"""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from estimator import format_version, json_text, storage
from estimator.errors import UserError
from estimator.storage import cache_root, locks

Status = Literal["starting", "running", "waiting", "finished", "failed", "stopped"]
ENDED: tuple[Status, ...] = ("finished", "failed", "stopped")


def root() -> Path:
    """The folder of the records, and of the output of local processes."""
    named = os.environ.get("GPT2_CLUSTER")
    return Path(named).absolute() if named else cache_root.root().absolute() / "cluster"


@dataclass
class StoredRun:
    """A run on a place.

    place: the NAME of --tpu. model: its JSON file. arguments: of main.py, without those of the launcher. attempt: how
    often all were started; failures: of these, the last ones that brought no newer checkpoint. step: of the newest
    checkpoint that was found. created: the kind of machine that we create, or have created, as the place.
    cloud: where in Google Cloud it is, and how it was ordered.
    """

    place: str
    model: str
    model_path: str
    arguments: list[str] = field(default_factory=list)
    workers: int = 0
    status: Status = "starting"
    attempt: int = 0
    failures: int = 0
    step: int | None = None
    message: str = ""
    code: int | None = None
    created: str = ""
    cloud: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for the same place and the same folder."""
        digest = sha256(json.dumps([self.place, self.model_path]).encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.place)[:40].strip('-').lower()}-{digest}"

    @property
    def folder(self) -> Path:
        return root() / "runs" / self.id

    @property
    def stop_file(self) -> Path:
        """Its presence tells the launcher that the run shall end."""
        return self.folder / "stop"

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        storage.write_json_atomic(self.folder / "run.json", format_version.stamped(asdict(self)))

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other launchers away from this run; entering it raises locks.Busy where one is at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locks.exclusive(
            self.folder / "launcher",
            f"another launcher already looks after this run on {self.place}; --tpu_logs {self.place} shows what it "
            f"does, --tpu_stop {self.place} ends it",
        )

    def looked_after(self) -> bool:
        """Whether a launcher is running for this run."""
        return self.folder.is_dir() and locks.is_held(self.folder / "launcher")


def read(path: Path) -> StoredRun:
    """UserError where the file is not one of ours."""
    try:
        values = json_text.loads(path.read_text(encoding="utf-8"))
        format_version.check(values, path)
        return StoredRun(**{item.name: values[item.name] for item in fields(StoredRun) if item.name in values})
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path} is damaged, so that run is not known; move the folder {path.parent} elsewhere"
        ) from None


def known(place: str | None = None) -> list[StoredRun]:
    """All runs, or those on one place; the one that was written last comes first."""
    paths = sorted((root() / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    runs = [read(path) for path in paths]
    return [run for run in runs if place is None or run.place == place]
