"""Looks after a run until it is done: starts all jobs, shows their logs, and when one dies starts all again.

The processes of a run compute together, so when one is gone the others wait for it in vain: they are killed,
and all start again from the newest checkpoint. Attempts that bring no newer one are further and further apart, and
there is a limit to them. All that must survive the launcher is in the `StoredRun` on disk and with the jobs, which run
on without it: a launcher that finds them alive watches them again.
"""

import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from estimator.errors import EXIT_APART, EXIT_DIVERGED, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_STOPPED, UserError
from estimator.launch.console import Console
from estimator.launch.interfaces import HostLost, State, Workers
from estimator.launch.job import JobStatus
from estimator.launch.job_group import JobGroup
from estimator.launch.run_store import StoredRun

MOST_FAILURES = 10  # attempts one after the other that bring no newer checkpoint
LONGEST_PAUSE = 300.0  # seconds between two of them
LOST_SECONDS = 90.0  # without an answer of a host, while others answer
ENDING_SECONDS = 120.0  # for the others, after the first has ended as it should
STOP_SECONDS = 120.0  # for saving, after SIGTERM
SETTLING_SECONDS = 1.0  # within these, what died with the cause of an end is seen together with it
ABORTED = 128 + signal.SIGABRT  # code of a worker that JAX ends when another one is gone
SHOWN_BYTES = 4096  # of a log, when a launcher comes back to it


class Detached(Exception):
    """The user detached; the run continues."""


class Ending(NamedTuple):
    """How an attempt ended. code: of the run; None asks for another attempt. reason: for people."""

    code: int | None
    reason: str


class Preparation(Protocol):
    """Work on the hosts other than running: see host_setup.py."""

    def prepare(self, team: JobGroup, attempt: int) -> None: ...
    def start(self, team: JobGroup, attempt: int) -> None: ...
    def newest_step(self, team: JobGroup) -> int | None: ...


class Supervisor:
    """One for a run; `run.lock()` is held by the caller. local: the jobs end with this machine, so its SIGTERM is
    theirs too. period: seconds between two looks."""

    def __init__(
        self,
        run: StoredRun,
        workers: Workers,
        ground: Preparation,
        console: Console,
        *,
        local: bool,
        period: float = 1.0,
    ):
        self.record = run
        self._workers = workers
        self._ground = ground
        self._console = console
        self._local = local
        self._period = period
        self._team: JobGroup | None = None
        self._seen: list[int] = []

    def supervise(self) -> int:
        """Returns the run's exit code. Raises Detached after Ctrl-C."""
        with _Signals(self._asked_to_stop if self._local else self._detach):
            try:
                return self._supervise()
            except KeyboardInterrupt:
                raise Detached from None
            finally:
                if self._team:
                    self._team.close()

    def _supervise(self) -> int:
        attached = self._attach()
        while True:
            try:
                if not attached:
                    self._start()
                ending = self._watch()
            except HostLost as error:
                ending = Ending(None, str(error))
            except UserError as error:
                self.record.code = error.code
                self._save("failed", str(error))
                self._remind()
                raise
            attached = False
            if ending.code is None and self.record.stop_file.exists():
                ending = Ending(EXIT_INTERRUPTED, "stopped")
            if ending.code is not None:
                return self._end(ending.code, ending.reason)
            if (code := self._pause(ending.reason)) is not None:
                return code

    # One attempt.

    def _attach(self) -> bool:
        """Whether jobs of an attempt are running, to watch again."""
        if self.record.attempt == 0 or self._workers.state() != State.READY:
            return False
        self._team = JobGroup(self._workers.hosts(), self.record.id)
        looks = self._team.looks([None] * len(self._team.jobs))
        current = [look for look in looks if look and look.attempt == self.record.attempt]
        if len(current) < len(looks) or self.record.status == "waiting":
            return False
        sizes = self._team.each(lambda index: self._team.jobs[index].log_size())
        self._seen = [max(0, size - SHOWN_BYTES) for size in sizes]
        step = "" if self.record.step is None else f", from step {self.record.step}"
        self._console.note(f"continuing with attempt {self.record.attempt}{step}; the end of the log so far:")
        return True

    def _start(self) -> None:
        record = self.record
        self._save("starting", "waiting for the workers")
        self._wait_for_workers()
        if self._team:
            self._team.close()
        team = self._team = JobGroup(self._workers.hosts(), record.id)
        team.kill()  # what an earlier launcher may have left
        self._ground.prepare(team, record.attempt)
        record.attempt += 1
        self._seen = [0] * len(team.jobs)
        if record.attempt > 1:
            self._seen = team.each(lambda index: team.jobs[index].log_size())
        record.workers = len(team.jobs)
        self._save("running", "")
        self._ground.start(team, record.attempt)

    def _wait_for_workers(self) -> None:
        told = None
        while (state := self._workers.state()) != State.READY:
            self._check_stop()
            if state in (State.PREEMPTED, State.GONE):
                if not self._workers.replaceable:
                    raise UserError(
                        f"{self.record.place} is {state} and was not created by this run, so it is not replaced; start "
                        "it again, then run the same command, or let --tpu_create TYPE make one (with --tpu_replace "
                        "also in its place)"
                    )
                self._console.note(f"{state}: creating it")
                if state == State.PREEMPTED:
                    self._workers.delete()
                self._workers.create()
            elif state == State.STOPPED:
                raise UserError(f"{self.record.place} is stopped; start it, then run the same command")
            if told != state:
                self._console.note(f"{state}: waiting")
                told = state
            time.sleep(10 * self._period)

    def _watch(self) -> Ending:
        """Shows the logs until the attempt is over, and nothing of it runs any more."""
        assert self._team
        team = self._team
        answered = [time.monotonic()] * len(team.jobs)
        first_end: float | None = None
        stopping: float | None = None
        while True:
            looks = self._look(answered)
            now = time.monotonic()
            if self.record.stop_file.exists():
                if stopping is None:
                    stopping = now
                    self._console.note("stopping: each worker saves and ends")
                    team.terminate()
                if now - stopping > STOP_SECONDS:
                    self._console.note(f"not ended {STOP_SECONDS:.0f} s after it was asked to: killed")
                    team.kill()
            codes = [None if look is None else look.code for look in looks]
            ended = [code for code in codes if code is not None]
            if len(ended) == len(codes):
                self._drain(answered)
                return _ending(codes, silent=False)
            if any(code not in (0, EXIT_STOPPED) for code in ended) and stopping is None:
                time.sleep(min(self._period, SETTLING_SECONDS))
                looks = self._look(answered)
                codes = [None if look is None else look.code for look in looks]
                ending = _ending(codes, silent=None in looks)
                team.kill()
                self._drain(answered)
                return ending
            if ended and first_end is None:
                first_end = now
            if first_end is not None and now - first_end > ENDING_SECONDS and stopping is None:
                team.kill()
                self._drain(answered)
                if EXIT_STOPPED in ended:
                    return _ending(codes, silent=False)
                return Ending(0 if codes[0] == 0 else None, "some workers did not end with the others")
            lost = [i for i, at in enumerate(answered) if now - at > LOST_SECONDS]
            if lost and (len(lost) < len(codes) or self._workers.state() != State.READY):
                names = ", ".join(team.hosts[i].name for i in lost)
                team.kill()
                return Ending(None, f"{names} did not answer for {LOST_SECONDS:.0f} s")
            time.sleep(self._period)

    def _look(self, answered: list[float]) -> list[JobStatus | None]:
        assert self._team
        looks = self._team.looks(self._seen)
        for index, look in enumerate(looks):
            if look:
                answered[index] = time.monotonic()
                self._seen[index] += len(look.log)
                self._console.log(index, look.log)
        return looks

    def _drain(self, answered: list[float]) -> None:
        while any(look and look.log for look in self._look(answered)):
            pass
        self._console.flush()

    # Between attempts.

    def _pause(self, reason: str) -> int | None:
        """Waits before the next attempt; returns the exit code if there is to be none."""
        record = self.record
        step = self._newest_step()
        progress = step is not None and (record.step is None or step > record.step)
        record.step = step if step is not None else record.step
        record.failures = 0 if progress else record.failures + 1
        if record.failures >= MOST_FAILURES:
            return self._end(1, f"{reason}; given up after {record.failures} attempts that brought no newer checkpoint")
        seconds = min(LONGEST_PAUSE, 2.0**record.failures)
        begin = "the beginning" if record.step is None else f"step {record.step}"
        self._console.note(f"{reason}; all start again from {begin} in {seconds:.0f} s (attempt {record.attempt + 1})")
        self._save("waiting", reason)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if record.stop_file.exists():
                return self._end(EXIT_INTERRUPTED, "stopped")
            time.sleep(min(0.2, self._period))
        return None

    def _newest_step(self) -> int | None:
        try:
            return self._ground.newest_step(self._team) if self._team else None
        except HostLost:
            return None

    def _check_stop(self) -> None:
        if self.record.stop_file.exists():
            raise HostLost("stopped")

    def _end(self, code: int, reason: str) -> int:
        status = {0: "finished", EXIT_INTERRUPTED: "stopped"}.get(code, "failed")
        if code not in (0, EXIT_INTERRUPTED):
            self._console.note(reason)
        elif code:
            self._console.note("stopped; the same command continues from the newest checkpoint")
        self.record.code = code
        self._save(status, reason)
        if self._workers.created and self.record.created and code == 0:
            self._console.note("the run is finished: deleting the workers that were created for it")
            self._workers.delete()
            self.record.created = ""
            self.record.save()
        else:
            self._remind()
        return code

    def _remind(self) -> None:
        if self._workers.created:
            place = self.record.place
            self._console.note(f"{place} was created from here, stays, and may cost money: --tpu_delete {place}")

    def _save(self, status: Any, message: str) -> None:
        self.record.status, self.record.message = status, message
        self.record.save()

    # Signals.

    def _asked_to_stop(self) -> None:
        self.record.stop_file.touch()

    def _detach(self) -> None:
        raise KeyboardInterrupt


class _Signals:
    """SIGTERM and SIGHUP for the time of supervising: SIGTERM as given, SIGHUP (the terminal is gone) detaches."""

    def __init__(self, terminated: Callable[[], None]):
        self._terminated = terminated
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        def detach(*_: object) -> None:
            raise KeyboardInterrupt

        self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: self._terminated())
        self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, detach)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _ending(codes: list[int | None], *, silent: bool) -> Ending:
    """Explains the exit codes of all workers; None: alive or, when some are `silent`, not answering."""
    if all(code == 0 for code in codes):
        return Ending(0, "")
    wrong = {index: code for index, code in enumerate(codes) if code not in (None, 0)}
    if EXIT_STOPPED in wrong.values():  # all have saved then, whatever became of the others
        return Ending(EXIT_INTERRUPTED, "a stop command ended the run, which has saved")
    # A user error has its own exit code, unless the death of another worker caused it. Those that it leaves lose it.
    if EXIT_ERROR in wrong.values() and set(wrong.values()) <= {EXIT_ERROR, EXIT_APART, ABORTED} and not silent:
        return Ending(EXIT_ERROR, "the run ended with the error above")
    # Diverged: the same steps, repeated, would have the same bits.
    if EXIT_DIVERGED in wrong.values():
        return Ending(EXIT_DIVERGED, "the run ended with the error above")
    # Those that lost another worker say nothing of the cause, and an error may come of another worker's death.
    causes = {index: code for index, code in wrong.items() if code not in (EXIT_ERROR, EXIT_APART)} or wrong
    return Ending(None, ", ".join(f"worker {index} {_told(code)}" for index, code in causes.items()))


def _told(code: int) -> str:
    if code == -1:
        return "is gone"
    if code == EXIT_INTERRUPTED:
        return "was asked to end, and has saved"
    if code == EXIT_APART:
        return "did not find, or lost, another one"
    if code > 128:
        try:
            return f"was killed ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"ended with code {code}"
