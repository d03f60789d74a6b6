"""Shows the status and the logs of launched runs, and stops them."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence

from estimator.errors import UserError
from estimator.launch.console import Console
from estimator.launch.gcp import ledger
from estimator.launch.interfaces import State, Workers
from estimator.launch.job import JobStatus
from estimator.launch.job_group import JobGroup
from estimator.launch.run_store import ENDED, StoredRun
from estimator.launch.supervisor import STOP_SECONDS
from estimator.storage import locks

Find = Callable[[StoredRun], Workers]
LAST_BYTES = 2000
PERIOD = 0.5


def status(runs: Sequence[StoredRun], find: Find) -> int:
    """Prints a paragraph for each run."""
    for run in runs:
        workers = find(run)
        state = workers.state()
        parts = [run.status, f"attempt {run.attempt}"]
        parts += [] if run.step is None else [f"step {run.step} when last looked at"]
        parts += [run.message] if run.message not in ("", run.status) else []
        if run.status not in ENDED and not run.looked_after():
            parts.append("nobody looks after it: run the same command")
        print(f"{run.place} ({state}): {', '.join(parts)}")
        print(f"  {run.model} -> {run.model_path}")
        if record := ledger.recorded(run.place):
            spot = ", spot" if record.spot else ""
            print(f"  created from here: {record.kind}{spot}; it may cost money until --tpu_delete {run.place}")
        if state != State.READY or not run.attempt:
            continue
        team = JobGroup(workers.hosts(), run.id)
        try:
            sizes = team.each(lambda index, team=team: team.jobs[index].log_size())
            looks = team.looks([max(0, size - LAST_BYTES) for size in sizes])
        finally:
            team.close()
        for index, look in enumerate(looks):
            print(f"  worker {index} on {team.hosts[index].name}: {_described(look)}")
    return 0


def _described(look: JobStatus | None) -> str:
    if look is None:
        return "does not answer"
    lines = [line for line in look.log.decode(errors="replace").splitlines() if line.strip()]
    last = f"; last line: {lines[-1]}" if lines else ""
    if look.attempt == 0:
        return "never started"
    return ("alive" if look.alive else f"ended with code {look.code}") + last


def logs(run: StoredRun, find: Find) -> int:
    """Shows the logs of all workers from the beginning until the run ends."""
    console = Console(run.place)
    team = _team(run, find)
    seen = [0] * len(team.jobs)
    try:
        while True:
            looks = team.looks(seen)
            for index, look in enumerate(looks):
                if look:
                    seen[index] += len(look.log)
                    console.log(index, look.log)
            if any(look and look.log for look in looks):
                continue
            if not any(look is None or look.alive for look in looks) and not run.looked_after():
                console.flush()
                return 0
            sys.stdout.flush()
            time.sleep(PERIOD)
    finally:
        team.close()


def stop(run: StoredRun, find: Find) -> int:
    """Asks all workers to save and end; kills those that have not ended after STOP_SECONDS."""
    console = Console(run.place)
    if run.status in ENDED:
        console.note(f"the run in {run.model_path} has {run.status} already")
        return 0
    run.stop_file.touch()
    workers = find(run)
    if (state := workers.state()) == State.READY:
        _stop_all(JobGroup(workers.hosts(), run.id), console)
    else:
        console.note(f"{run.place} is {state}: nothing runs there")
    with contextlib.suppress(locks.Busy), run.lock():  # otherwise its launcher writes that it has ended
        run.status, run.message = "stopped", "stopped"
        run.save()
    console.note("stopped; the same command continues from the newest checkpoint")
    if ledger.recorded(run.place):
        console.note(f"{run.place} was created from here and may cost money: --tpu_delete {run.place}")
    return 0


def _stop_all(team: JobGroup, console: Console) -> None:
    try:
        console.note("stopping: each worker saves and ends")
        team.terminate()
        until = time.monotonic() + STOP_SECONDS
        while any(look and look.alive for look in team.looks([None] * len(team.jobs))):
            if time.monotonic() > until:
                console.note(f"not ended {STOP_SECONDS:.0f} s after it was asked to: killed")
                team.kill()
                break
            time.sleep(PERIOD)
    finally:
        team.close()


def _team(run: StoredRun, find: Find) -> JobGroup:
    workers = find(run)
    if (state := workers.state()) != State.READY:
        raise UserError(f"{run.place} is {state}; nothing can be asked of its workers")
    return JobGroup(workers.hosts(), run.id)
