"""The trials of a sweep and the file that remembers them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from estimator import config, format_version, json_text, storage
from estimator.errors import UserError

FILE_NAME, IDENTITY = "trials.json", "sweep.json"
State = Literal["running", "complete", "pruned", "failed"]
T = TypeVar("T")


@dataclass
class Trial:
    """A run of a sweep. reports: (step, metric) of its evaluations. reason: why it failed or was stopped. code: exit
    code of a failed one; None if unknown.

    A trial that is "running" although no sweep is was interrupted, and continues.
    """

    number: int
    values: dict[str, Any]
    state: State = "running"
    loss: float | None = None
    step: int = 0
    seconds: float = 0.0
    reason: str = ""
    code: int | None = None
    reports: list[tuple[int, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.number:04}"


class TrialStore:
    """The folder of a sweep: trials.json, and NNNN.json, NNNN.log and the run NNNN of each trial."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.trials = self._read()

    def _read(self) -> list[Trial]:
        path = self.folder / FILE_NAME
        self._identity()
        trials = _load(path, TypeAdapter(list[Trial])) if path.exists() else []
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise _damaged(path)
        return trials

    def save(self) -> None:
        """Writes trials.json; it appears whole."""
        text = ",\n".join(json.dumps(asdict(trial)) for trial in self.trials)
        storage.write_bytes_atomic(self.folder / FILE_NAME, f"[{text}]\n".encode())

    def require_same(self, identity: dict[str, Any]) -> None:
        """Raises UserError if the folder holds another sweep; otherwise remembers this one."""
        before = self._identity()
        if before is not None and (changed := _changes(before, identity)):
            raise UserError(
                f"{self.folder} holds a sweep that began with {' and '.join(changed)}; to continue it, take back the "
                "change; for another sweep, set folder to a new one"
            )
        storage.write_json_atomic(self.folder / IDENTITY, format_version.stamped(identity))

    def _identity(self) -> dict[str, Any] | None:
        """Of the sweep in the folder. Raises UserError if it is of a later format."""
        path = self.folder / IDENTITY
        if not path.exists():
            return None
        values = _load(path, TypeAdapter(dict[str, Any]))
        format_version.check(values, path)
        if not isinstance(values.get("model", {}), dict):
            raise _damaged(path)
        return {key: value for key, value in values.items() if key != format_version.KEY}


def _changes(before: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """The keys of the model and of the sweep that are others than before: "max_steps 20, not 30"."""
    model = _differences(before.get("model", {}), identity.get("model", {}))
    own = ({key: value for key, value in values.items() if key != "model"} for values in (before, identity))
    return model + _differences(*own, of=" of the sweep")


def _differences(before: dict[str, Any], values: dict[str, Any], *, of: str = "") -> list[str]:
    keys = [key for key in sorted({*before, *values}) if before.get(key) != values.get(key)]
    shown = [[config.short(each[key]) if key in each else "unset" for each in (before, values)] for key in keys]
    return [f"{key}{of} {old}, not {new}" for key, (old, new) in zip(keys, shown, strict=True)]


def _load(path: Path, kind: TypeAdapter[T]) -> T:
    try:
        return kind.validate_python(json_text.loads(path.read_bytes()))
    except ValueError:
        raise _damaged(path) from None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; restore it from a copy, or choose another folder")
