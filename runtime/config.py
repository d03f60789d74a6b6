"""The JSON file that drives a run: read once, checked whole, divided among the dataclasses that own its keys.

Every key belongs to exactly one `Section` (the model's, the optimizer's, the input's, the run's, the prediction's).
All problems of a file are reported in one message, each with its fix. Nothing is read from a dict after this.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from runtime import storage
from runtime.errors import UserError


class Section(BaseModel):
    """Base of the dataclasses that own keys of the JSON file: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Problem(ValueError):
    """Raised by a section's cross-check: names the key at fault and says how to mend it."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of a JSON file, with KEY=VALUE overrides applied.

    VALUE is read as JSON and, where it is none, taken as a string: lr=0.001, mesh={"data": 4}, model_path=runs/a.
    """
    try:
        text = storage.read_bytes(str(path)).decode()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_near_file(Path(path))}") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise UserError(f"{path} is not a JSON text file") from None
    try:
        values = json.loads(text, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}; not valid JSON") from None
    except Problem as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f'{path} should hold one JSON object: {{"n_layer": 12, ...}}')
    values.pop("$schema", None)  # names the schema to editors
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: expected KEY=VALUE, as in --set lr=0.001")
        try:
            values[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            values[key.strip()] = value
    return values


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise Problem(key, "written twice; keep one")
        values[key] = value
    return values


def _near_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [entry.name for entry in folder.glob("*.json")] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {folder / near[0]}?" if near else ""


def divide(values: dict[str, Any], sections: Sequence[type[Section]], *, source: str | Path) -> list[Any]:
    """An instance of each section, filled with its own keys; raises one UserError that lists every problem."""
    owners = {key: section for section in sections for key in section.model_fields}
    assert len(owners) == sum(len(section.model_fields) for section in sections), "two sections own the same key"
    problems = [f"{key}: no such key{did_you_mean(key, owners)}" for key in values if key not in owners]
    filled = []
    for section in sections:
        own = {key: value for key, value in values.items() if owners.get(key) is section}
        try:
            filled.append(section(**own))
        except pydantic.ValidationError as error:
            problems += [_describe(problem, section) for problem in error.errors()]
    if problems:
        noun = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{source} has {noun}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return filled


def did_you_mean(word: str, known: Any) -> str:
    """ "; did you mean KNOWN?" or ""."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _describe(problem: Any, section: type[Section]) -> str:
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, Problem):
        return str(cause)
    key = str(problem["loc"][0]) if problem["loc"] else "?"
    if problem["type"] == "missing":
        return f"{key}: missing; {section.model_fields[key].description}"
    given = json.dumps(problem["input"], default=str)
    message = problem["msg"][0].lower() + problem["msg"][1:]
    advice = "; write it without quotes" if isinstance(problem["input"], str) and "valid string" not in message else ""
    return f"{key}: {message}, but it is {given}{advice if 'number' in message or 'integer' in message else ''}"


def resolved(sections: Sequence[Section]) -> dict[str, Any]:
    """All keys with the values in force, defaults included: what a run folder keeps as config.json."""
    return {key: value for section in sections for key, value in section.model_dump(mode="json").items()}
