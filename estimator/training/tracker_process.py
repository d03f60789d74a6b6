"""Starts and ends the processes of `trackers`, which send a run's metrics to experiment trackers."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from estimator.errors import UserError

PACKAGES = Path(__file__).resolve().parents[2]
END_SECONDS = 20.0  # that the end of training waits for trackers
LEFT_SECONDS = 600.0  # that a process then tries to send the rest


def missing(names: Iterable[str]) -> list[str]:
    """The trackers whose packages are not installed here. Imports none of them."""

    def is_installed(name: str) -> bool:
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None  # a folder ./wandb of runs is no package

    return [name for name in names if not is_installed(name)]


def require(absent: list[str]) -> None:
    """Raises UserError if a package is missing."""
    if absent:
        raise UserError(
            f"trackers: not installed: {', '.join(absent)}; pip install {' '.join(absent)}, or remove the name"
        )


class TrackerProcess:
    """The process that sends the records of a growing metrics.jsonl to a tracker."""

    def __init__(self, name: str, folder: str, metrics: Path, *, resume_step: int, is_replay: bool):
        self.name = name
        path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
        arguments = [folder, name, "--metrics", str(metrics), "--resume_step", str(resume_step), "--follow"]
        arguments += [] if is_replay else ["--differs"]
        # A session of its own: Ctrl-C is for training, whose end closes the pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "estimator.training.trackers", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def end(self) -> None:
        """Tells it that training has ended, so that it sends the rest and ends."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, deadline: float) -> None:
        """Waits until a time of time.monotonic(), then leaves it behind."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            minutes = LEFT_SECONDS / 60
            warn(self.name, f"not done yet; process {self._process.pid} tries for {minutes:.0f} minutes more")


def finish(processes: list[TrackerProcess]) -> None:
    """Ends the processes; waits for all of them together for END_SECONDS at most."""
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        process.end()
    for process in processes:
        process.wait(deadline)


def warn(name: str, text: str) -> None:
    """Prints a warning about a tracker."""
    print(f"warning: {name}: {text}", file=sys.stderr, flush=True)
