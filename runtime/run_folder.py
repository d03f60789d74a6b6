"""What a run's folder holds, and how it is emptied without taking anything else along."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from runtime.errors import UserError

CONFIG = "config.json"
OURS = ("checkpoints", "metrics.jsonl", "predictions.txt", "events.out.tfevents.*", CONFIG)


def begin(folder: Path, values: dict[str, Any]) -> list[str]:
    """Writes the keys in force to config.json; returns a line for each that the run was started with otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    before = read_config(folder) if path.exists() else values
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return [
        f"{key}: {json.dumps(before.get(key))} before, {json.dumps(value)} now"
        for key, value in values.items()
        if key in before and before[key] != value
    ]


def read_config(folder: Path) -> dict[str, Any]:
    """The keys that a run is, or was, going with."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG}") from None
    except ValueError:
        raise UserError(f"{folder / CONFIG} is not valid JSON; restore it or remove it") from None


def clean(folder: Path) -> None:
    """Removes what a run wrote, and nothing else; refuses a folder that is not a run's."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    read_config(folder)
    # The mark of a run goes last: a clean that was interrupted can be repeated.
    for pattern in OURS:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
