"""What trials of all targets share: their outcomes, how a command must end, files that are damaged, and the shim."""

import dataclasses
import random
import re
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from benchmarks._faults_zygote import Ended
from estimator import storage
from estimator.system import compiler

SOURCE = Path(__file__).parent / "native" / "faults.cpp"
FOREVER = 1 << 40
SECONDS = 240  # of one command
OPS = ("change", "write", "open", "rename", "sync", "remove", "read", "clock")
LOST, WRONG, REFUSED, SURVIVED = "lost", "wrong", "refused", "survived"
OUTCOMES = (SURVIVED, REFUSED, LOST, WRONG)
DAMAGES = ("deleted", "cut", "flipped", "zeroed", "emptied")
# What a refusal may ask for; a message without any of these words names no fix.
FIXES = re.compile(r"\b(free|run|rerun|continue|restore|move|choose|check|copy|fix|set|delete|encode|download|raise|"
                   r"lower|give|use|write|start|stop|wait|report|add|take)\b", re.IGNORECASE)  # fmt: skip

NO_MEMORY_OF_A_LIBRARY = "OpenBLAS error: Memory allocation still failed"  # and it calls exit(1)


class Fault(Exception):
    """A trial that failed: LOST or WRONG, and why."""

    def __init__(self, outcome: str, why: str):
        super().__init__(why)
        self.outcome, self.why = outcome, why


@dataclasses.dataclass
class Report:
    """What a trial did. attempt: above 1 after a pause. kinds: of its faults, in order. refusals: commands that ended
    with a refusal."""

    number: int
    attempt: int = 1
    kinds: list[str] = dataclasses.field(default_factory=list)
    outcome: str = SURVIVED
    why: str = ""
    refusals: int = 0

    @property
    def name(self) -> str:
        """Of the trial's folder."""
        return f"trial-{self.number}" + (f"-attempt-{self.attempt}" if self.attempt > 1 else "")


class Damage(NamedTuple):
    """A file that was damaged, its bytes before, and how. root: a folder above it that is not meant by its name."""

    path: str
    root: str
    before: bytes
    how: str


def library() -> str:
    """The compiled shim; OSError says why there is none."""
    found = compiler.compiled(SOURCE.parent, SOURCE.name)
    if isinstance(found, str):
        raise OSError(found)
    return str(found)


def rule(op: str, path: Path | str, *, at: int, action: str, value: int = 0, count: int = 1) -> str:
    """A rule of the shim."""
    return f"{op}:{at}:{count}:{action} {value}:{path}"


def check(ended: Ended, *, codes: Collection[int], dies_of: Collection[int] = ()) -> bool:
    """Whether the command refused. Raises Fault where it ended in another way than a program of ours should.

    codes: exit codes besides 2, a refusal. dies_of: signals that may have ended it, as may a library without memory.
    """
    code, output = ended.code, ended.output
    tail = output[-1500:]
    if code is None:
        raise Fault(LOST, f"it did not end in time; its output, with the stacks of its threads:\n{output[-6000:]}")
    if "Traceback (most recent call last)" in output or "Error ignored in" in output:
        raise Fault(WRONG, f"a traceback:\n{output[-3000:]}")
    if code == 1 and dies_of and NO_MEMORY_OF_A_LIBRARY in output:
        return False
    if code < 0:
        if -code not in dies_of:
            raise Fault(WRONG, f"it died of {signal.Signals(-code).name}:\n{tail}")
        return False
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    if code in (2, 3, 75) and len(errors) != 1:
        raise Fault(WRONG, f"code {code} with {len(errors)} lines of error:\n{tail}")
    if code in (2, 3, 75) and not FIXES.search(errors[0]):
        raise Fault(WRONG, f"a refusal that names no fix: {errors[0]}")
    if code != 2 and code not in codes:
        raise Fault(WRONG, f"it ended with code {code}:\n{tail}")
    return code == 2


def damage(path: str, how: str, draw: random.Random, *, root: str) -> Damage:
    """Damages a file, here or in a bucket."""
    before = storage.read_bytes(path)
    place = draw.randrange(len(before)) if before else 0
    flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in before[place : place + 1])
    if how == "deleted":
        storage.remove(path)
        return Damage(path, root, before, how)
    after = {
        "cut": before[:place],
        "flipped": before[:place] + flipped + before[place + 1 :],
        "zeroed": before[:place] + bytes(len(before[place : place + 4096])) + before[place + 4096 :],
        "emptied": b"",
    }[how]
    write(path, after)
    return Damage(path, root, before, how)


def write(path: str, data: bytes) -> None:
    if not storage.is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes_atomic(path, data)


def follow(ended: Ended, damages: list[Damage], draw: random.Random, *, move: Callable[[str], None] | None) -> None:
    """Follows the advice of a refusal after damage, and takes what it has repaired from the list.

    move: takes a folder out of the run; None restores it. Raises Fault where the refusal names no damaged file or no
    fix for it.
    """
    message = next(line for line in ended.output.splitlines() if line.startswith("error: "))
    named = [each for each in damages if _named(each, message)]
    if not named:
        where = ", ".join(f"{each.path} ({each.how})" for each in damages)
        raise Fault(WRONG, f"the refusal does not name the damaged {where}: {message}")
    may_move = "move this folder out" in message or "move it out" in message
    may_restore = re.search(r"restore|copy|copies|again|download|correct", message)
    if move and may_move and (not may_restore or draw.random() < 0.5):
        folder = _named(named[0], message)
        move(folder)
        damages[:] = [each for each in damages if not each.path.startswith(f"{folder}/")]
        return
    if not may_restore:
        raise Fault(WRONG, f"the refusal names no fix: {message}")
    for each in reversed(named):  # a file that was damaged twice is written back as it was before both
        write(each.path, each.before)
        damages.remove(each)


def _named(damage: Damage, message: str) -> str:
    """The damaged file, or the folder above it and below the root, that a message names; "" if none."""
    name = damage.path
    while name != damage.root and not re.search(re.escape(name) + r"(?![\w/])", message):
        name = name.rpartition("/")[0]
    return name if name != damage.root else ""


def files(folder: str) -> list[str]:
    """All files below a folder, here or in a bucket, in order."""
    if storage.is_remote(folder):
        return sorted(storage.listing(folder))
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
