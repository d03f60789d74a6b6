"""Programs killed again and again at random moments, which their own progress sets: so no machine is too fast for it.

A moment is a number of signs of progress after the start, or a time before the first of them. A program that ends
before its moment has come is begun anew in an empty folder.
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
    """The files below a folder: a sign of progress is that there are others."""
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
    """Starts the command with the number of kills so far, and kills it with its children, `times` times in all.

    signs: the most changes of `progress` that are waited for. finished: called when it ended by itself, with code 0;
    then `out` is removed.
    """
    generator = random.Random(seed)
    killed, start_seconds = 0, 0.3
    while killed < times:
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # One in five before anything is to be seen.
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
