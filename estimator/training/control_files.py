"""The files of RUN/control, by which a person or a program controls a running training.

NAME.json           a request: {"command": "save"} or {"command": "lr", "value": 0.001}; removed once it is taken
answers/NAME.json   its answer: {"ok", "step", "message"}
rejected/NAME.json  a file that is not a request, moved aside
history.jsonl       the commands obeyed, {"step", "request", "command", "value", "peak"} a line; a resume repeats them
"""

import json
import math
import os
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

from estimator import format_version, json_text, storage
from estimator.errors import UserError

FOLDER = "control"
HISTORY, ANSWERS, REJECTED = "history.jsonl", "answers", "rejected"
COMMANDS = ("save", "evaluate", "sample", "lr", "pause", "resume", "stop", "status")
REPEATED = ("save", "evaluate", "sample", "lr")  # by a resume that trains their step again
MOST_BYTES = 10_000
HIGHEST_LR = 1000.0


class Request(NamedTuple):
    """A command. value: the learning rate of "lr"."""

    name: str
    command: str
    value: float | None = None

    def __str__(self) -> str:
        return self.command if self.value is None else f"{self.command} {self.value:g}"


class Entry(NamedTuple):
    """A command that was obeyed after `step` steps. peak: the highest rate of the file's schedule then."""

    step: int
    request: str
    command: str
    value: float | None = None
    peak: float | None = None


class Answer(NamedTuple):
    """ok: whether the command was obeyed."""

    ok: bool
    step: int
    message: str


def parse(name: str, data: bytes) -> Request:
    """Reads a request. Raises ValueError with what is wrong."""
    try:
        values = json_text.loads(data) if len(data) <= MOST_BYTES else None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if isinstance(values, dict) and values.get(format_version.KEY, format_version.FIRST) != format_version.FIRST:
        raise ValueError("of a newer version of control.py; use the version of the program that trains")
    if not isinstance(values, dict) or values.keys() - {"command", "value", format_version.KEY}:
        raise ValueError('not an object of "command" and "value"')
    command, value = values.get("command"), values.get("value")
    if command not in COMMANDS:
        raise ValueError(f"no command {str(command)[:40]!r}; available: {', '.join(COMMANDS)}")
    if command != "lr":
        if value is not None:
            raise ValueError(f"{command} takes no value")
        return Request(name, command)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= HIGHEST_LR:
        raise ValueError(f"lr needs a value from 0 to {HIGHEST_LR:g}")
    return Request(name, command, float(value))


class ControlFolder:
    """Reads and writes the files of one run, local or in a bucket."""

    def __init__(self, run: str):
        self.path = storage.join(str(run), FOLDER)
        self._unreadable: dict[str, bytes] = {}

    def send(self, command: str, value: float | None = None) -> str:
        """Writes a request; returns its name. Raises ValueError for one that is none."""
        name = f"{time.time_ns():020}-{secrets.token_hex(4)}"
        data = json.dumps({"command": command} | ({} if value is None else {"value": value})).encode()
        parse(name, data)
        self._write(f"{name}.json", data)
        return name

    def requests(self) -> list[Request | tuple[str, str]]:
        """The new requests in the order of their names; (name, fault) for a file that is none, which is moved aside.

        A file that cannot be read may still be being written: it is a fault when it is the same the next time.
        """
        found: list[Request | tuple[str, str]] = []
        for path in storage.children(self.path, "*.json"):
            if not storage.is_file(path):
                continue
            name = path.rpartition("/")[2].removesuffix(".json")
            try:
                with storage.open(path) as file:
                    data = file.read(MOST_BYTES + 1)
            except FileNotFoundError:  # obeyed meanwhile
                continue
            try:
                found.append(parse(name, data))
            except ValueError as error:
                if self._unreadable.get(name) != data:
                    self._unreadable[name] = data
                    continue
                self._reject(path, data)
                found.append((name, str(error)))
        return found

    def withdraw(self, name: str) -> None:
        """Removes a request."""
        storage.remove(self._in(f"{name}.json"))

    def answer(self, name: str, answer: Answer) -> None:
        self._write(f"{ANSWERS}/{name}.json", json.dumps(answer._asdict()).encode())

    def answer_to(self, name: str) -> Answer | None:
        """The answer to a request, if it has come."""
        path = self._in(ANSWERS, f"{name}.json")
        try:
            return Answer(**json_text.loads(storage.read_bytes(path))) if storage.is_file(path) else None
        except (ValueError, TypeError):
            raise UserError(f"{path} is not an answer of a run; the run's log tells what it did") from None

    def history(self) -> list[Entry]:
        """The commands obeyed so far. Raises UserError if the file is damaged."""
        path = self._in(HISTORY)
        lines = storage.read_bytes(path).decode(errors="replace").splitlines() if storage.is_file(path) else []
        try:
            return [_entry(json_text.loads(line)) for line in lines if line.strip()]
        except (ValueError, TypeError, OverflowError):
            raise UserError(f"{path} is damaged; restore it, or move it away to repeat no command") from None

    def record(self, entry: Entry) -> None:
        """Adds to the history; the file is replaced, so a kill leaves it whole."""
        lines = [json.dumps(each._asdict()) + "\n" for each in [*self.history(), entry]]
        self._write(HISTORY, "".join(lines).encode())

    def _reject(self, path: str, head: bytes) -> None:
        """Moves a file aside, whole; an object in a bucket by its first bytes."""
        name = f"{REJECTED}/{path.rpartition('/')[2]}"
        if storage.is_remote(path):
            self._write(name, head)
            storage.remove(path)
            return
        Path(self._in(REJECTED)).mkdir(exist_ok=True)
        os.replace(path, self._in(name))

    def _write(self, name: str, data: bytes) -> None:
        path = self._in(name)
        if not storage.is_remote(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        storage.write_bytes_atomic(path, data)

    def _in(self, *names: str) -> str:
        return storage.join(self.path, *names)


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**values)
    numbers = [number for number in (entry.value, entry.peak) if number is not None]
    if type(entry.step) is not int or entry.command not in COMMANDS or not all(map(math.isfinite, numbers)):
        raise ValueError
    return entry
