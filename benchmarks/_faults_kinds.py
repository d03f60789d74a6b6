"""Faults that any program can meet: each disturbs it once and checks how it ended."""

import errno
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from benchmarks import _faults_trial as trials
from benchmarks._faults_trial import DAMAGES, FOREVER, WRONG, Damage, Fault, Report, rule
from benchmarks._faults_zygote import Ended

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_MEMORY = 400 << 20
TAKEN_FOR_DEAD: dict[str, Any] = {"codes": (0, 1, 75), "dies_of": (signal.SIGABRT,)}  # ends of one of two processes


class Program(Protocol):
    """A program of a trial. prefix: folder below which the rules of the library hold. damages: not repaired so far."""

    prefix: Path
    report: Report
    damages: list[Damage]

    @property
    def run(self) -> Callable[..., Ended]: ...

    def end(self) -> None: ...


P = TypeVar("P", bound=Program)


class Disturbance(Generic[P]):
    """One fault that a program is about to meet. counts: calls of each kind of an undisturbed one."""

    def __init__(self, run: P, draw: random.Random, counts: Mapping[str, int], *, processes: int = 1):
        self.run, self.draw, self._counts, self._processes = run, draw, counts, processes

    def rule(self, op: str, action: str, value: int = 0, *, count: int = 1) -> str:
        """A rule for a call of an undisturbed program, drawn by its number."""
        at = self.draw.randint(1, max(1, self._counts.get(op, 0)))
        return rule(op, self.run.prefix, at=at, action=action, value=value, count=count)

    def start(self, *rules: str, codes: tuple[int, ...] = (0,), dies_of: tuple[int, ...] = (), **options: Any) -> Ended:
        ended = self.run.run(rules, victim=self.draw.randrange(self._processes), **options)
        if trials.check(ended, codes=codes, dies_of=dies_of):
            self.run.report.refusals += 1
        return ended

    def killed(self) -> None:
        self.start(self.rule("change", "signal", signal.SIGKILL), dies_of=(signal.SIGKILL,))

    def torn(self) -> None:
        self.start(self.rule("write", "torn"), dies_of=(signal.SIGKILL,))

    def stopped(self) -> None:
        rule = self.rule("change", "signal", self.draw.choice(STOPS))
        self.start(rule, codes=(0, 130), dies_of=STOPS)

    def paused(self) -> None:
        self.start(self.rule("change", "signal", signal.SIGSTOP))

    def disk_full(self) -> None:
        self.start(self.rule(self.draw.choice(("write", "change")), "errno", errno.ENOSPC, count=FOREVER))

    def read_only(self) -> None:
        self.start(self.rule("change", "errno", errno.EROFS, count=FOREVER))

    def io_error(self) -> None:
        op = self.draw.choice(("write", "sync", "rename", "open", "remove"))
        self.start(self.rule(op, "errno", errno.EIO, count=self.draw.choice((1, 1, FOREVER))))

    def read_error(self) -> None:
        ended = self.start(self.rule("read", "errno", errno.EIO, count=self.draw.choice((1, 1, FOREVER))))
        if "out of the run" in ended.output and not self.run.damages:
            raise Fault(WRONG, f"advice to move away what may be whole:\n{ended.output[-800:]}")

    def short(self) -> None:
        self.start(self.rule("write", "short", count=FOREVER), self.rule("read", "short", count=FOREVER))

    def clock(self) -> None:
        seconds = self.draw.choice((-1, 1)) * self.draw.choice((3600, 86400, 10 * 365 * 86400))
        # One of several processes may then take the others for dead, as JAX reads this clock too.
        ends = TAKEN_FOR_DEAD if self._processes > 1 else {}
        self.start(rule("clock", "", at=self.draw.randint(1, 400), action="jump", value=seconds), **ends)

    def memory(self) -> None:
        """Less memory than it needs: a refusal, or the process dies as by the system's hand."""
        self.run.end()
        dies_of = (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL)
        # 127: of the dynamic linker, which has no room for the variables of a thread.
        self.start(memory=self.draw.randrange(MOST_MEMORY), codes=(0, 127), dies_of=dies_of)

    def damage(self, path: str, *, root: str) -> None:
        self.run.damages.append(trials.damage(path, self.draw.choice(DAMAGES), self.draw, root=root))


class Kind(NamedTuple):
    """A fault of a table. modes: of the settings in which it can happen. is_last: later ones could not be checked."""

    disturb: Callable[[Any], None]
    weight: int = 2
    modes: tuple[str, ...] = ("one", "two")
    is_last: bool = False


HERE = ("one",)
COMMON = {
    "killed": Kind(Disturbance.killed, 4),
    "torn write": Kind(Disturbance.torn),
    "stop signal": Kind(Disturbance.stopped),
    "paused": Kind(Disturbance.paused, 1),
    "disk full": Kind(Disturbance.disk_full, modes=HERE),
    "read-only disk": Kind(Disturbance.read_only, modes=HERE),
    "I/O error": Kind(Disturbance.io_error, modes=HERE),
    "read error": Kind(Disturbance.read_error, modes=HERE),
    "short reads and writes": Kind(Disturbance.short, modes=HERE),
    "clock jump": Kind(Disturbance.clock, 1),
    "out of memory": Kind(Disturbance.memory, 1, HERE),
}


def drawn(kinds: Mapping[str, Kind], draw: random.Random) -> str:
    return draw.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
