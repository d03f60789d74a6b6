"""Kills programs repeatedly at random moments, which are relative to their progress and so independent of the machine.

A moment is a number of signs of progress after the start, or a time before the first one. A program that exits before
its moment is started again in an empty directory.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

KILLS = 20
STUCK_SECONDS = 300


def names(folder: Path) -> Hashable:
    """Returns the set of files below a directory; a change of it is a sign of progress."""
    return frozenset(os.path.join(parent, file) for parent, _, files in os.walk(folder) for file in files)


def kill_often(
    command: Callable[[int], Sequence[str]],
    out: Path,
    *,
    signs: int,
    progress: Callable[[], Hashable],
    finished: Callable[[], None],
    times: int = KILLS,
    seed: int = 0,
) -> None:
    """Starts the command, given the number of kills so far, and kills its process group `times` times.

    signs: the maximum number of changes of `progress` to wait for. finished: called if the command exits with code 0;
    `out` is removed afterwards.
    """
    generator = random.Random(seed)
    killed, start_seconds = 0, 0.3
    while killed < times:
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # One in five kills happens before the first sign of progress.
        wanted = 1 if generator.random() < 0.2 else generator.randint(1, signs)
        early = generator.random() * start_seconds if wanted == 1 else STUCK_SECONDS
        seen, last, began = 0, progress(), time.monotonic()
        while process.poll() is None and seen < wanted and time.monotonic() < began + early:
            time.sleep(0.002)
            if (now := progress()) != last:
                seen, last = seen + 1, now
                start_seconds = time.monotonic() - began if seen == 1 else start_seconds
        assert time.monotonic() < began + STUCK_SECONDS, "no progress"
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(timeout=600)
        if code == -signal.SIGKILL:
            killed += 1
        else:
            assert code == 0
            finished()
            shutil.rmtree(out)
