"""Asking after a run that was launched: how it is, what it says, and letting it end."""

import sys
import time
from collections.abc import Callable, Sequence

from cluster import creations
from cluster.console import Console
from cluster.job import Look
from cluster.records import ENDED, Run
from cluster.supervisor import STOP_SECONDS
from cluster.team import Team
from cluster.workers import State, Workers
from runtime.errors import UserError

Find = Callable[[Run], Workers]
LAST_BYTES = 2000
PERIOD = 0.5


def status(runs: Sequence[Run], find: Find) -> int:
    """Prints a paragraph for each run."""
    for run in runs:
        workers = find(run)
        state = workers.state()
        parts = [run.status, f"attempt {run.attempt}"]
        parts += [] if run.step is None else [f"step {run.step} when last looked at"]
        parts += [run.message] if run.message else []
        if run.status not in ENDED and not run.looked_after():
            parts.append("nobody looks after it: run the same command")
        print(f"{run.place} ({state}): {', '.join(parts)}")
        print(f"  {run.model} -> {run.model_path}")
        if record := creations.recorded(run.place):
            spot = ", spot" if record.spot else ""
            print(f"  created from here: {record.kind}{spot}; it may cost money until --tpu_delete {run.place}")
        if state != State.READY or not run.attempt:
            continue
        team = Team(workers.hosts(), run.id)
        try:
            sizes = team.each(lambda index, team=team: team.jobs[index].log_size())
            looks = team.looks([max(0, size - LAST_BYTES) for size in sizes])
        finally:
            team.close()
        for index, look in enumerate(looks):
            print(f"  worker {index} on {team.hosts[index].name}: {_described(look)}")
    return 0


def _described(look: Look | None) -> str:
    if look is None:
        return "does not answer"
    lines = [line for line in look.log.decode(errors="replace").splitlines() if line.strip()]
    last = f"; last line: {lines[-1]}" if lines else ""
    if look.attempt == 0:
        return "never started"
    return ("alive" if look.alive else f"ended with code {look.code}") + last


def logs(run: Run, find: Find) -> int:
    """Shows the logs of all workers from the beginning, and goes on until the run ends."""
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


def stop(run: Run, find: Find) -> int:
    """Lets all workers save and end; what has not ended after STOP_SECONDS is killed."""
    console = Console(run.place)
    if run.status in ENDED:
        console.note(f"the run in {run.model_path} has {run.status} already")
        return 0
    run.stop_file.touch()
    workers = find(run)
    if (state := workers.state()) == State.READY:
        _stop_all(Team(workers.hosts(), run.id), console)
    else:
        console.note(f"{run.place} is {state}: nothing runs there")
    try:
        with run.lock():
            run.status, run.message = "stopped", "stopped"
            run.save()
    except UserError:
        pass  # its launcher writes that it has ended
    console.note("stopped; the same command continues from the newest checkpoint")
    if creations.recorded(run.place):
        console.note(f"{run.place} was created from here and may cost money: --tpu_delete {run.place}")
    return 0


def _stop_all(team: Team, console: Console) -> None:
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


def _team(run: Run, find: Find) -> Team:
    workers = find(run)
    if (state := workers.state()) != State.READY:
        raise UserError(f"{run.place} is {state}; nothing can be asked of its workers")
    return Team(workers.hosts(), run.id)
