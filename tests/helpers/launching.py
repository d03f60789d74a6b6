"""Shell scripts as jobs of the launcher."""

import sys
import time
from pathlib import Path


def wait_for(condition, seconds: float = 300.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)
    return found


def alive(number: str) -> bool:
    """Returns whether a process is running; zombies have an empty command line."""
    path = Path(f"/proc/{number}/cmdline")
    return path.exists() and path.read_bytes() != b""


class Scripts:
    """Replaces `HostSetup`: worker i runs script i, and the latest step is read from `step`, a file of the scripts."""

    def __init__(self, folder: Path, *scripts: str):
        self.folder = folder
        self.scripts = scripts
        self.prepared = 0

    def prepare(self, team, attempt):
        self.prepared += 1

    def start(self, team, attempt):
        for index, job in enumerate(team.jobs):
            command = ["sh", "-c", self.scripts[index]]
            environment = {"ATTEMPT": str(attempt), "INDEX": str(index)}
            job.start(command, attempt=attempt, folder=str(self.folder), environment=environment, index=index)

    def newest_step(self, team):
        path = self.folder / "step"
        return int(path.read_text()) if path.exists() else None


def arguments(given: list[str]):
    import main

    before, sys.argv = sys.argv, ["main.py", *given]
    try:
        return main.parse_arguments()
    finally:
        sys.argv = before
