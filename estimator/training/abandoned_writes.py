"""What becomes of writes of checkpoints that fail, or that do not end."""

import shutil
import time
from concurrent import futures
from pathlib import Path

from estimator.errors import UserError

SLOW_SECONDS = 60  # of a write, before the clock is looked at; and the least change of the clock that counts
_STARTED = time.time() - time.monotonic()


def await_done(pending: futures.Future[None]) -> None:
    """Returns when a slow write has ended. Raises UserError if the system's clock was set back in this process.

    TensorStore waits until times of that clock: after it was set back by hours or years, it waits for as long.
    """
    while futures.wait([pending], SLOW_SECONDS).not_done:
        back = _STARTED - (time.time() - time.monotonic())
        if back >= SLOW_SECONDS:
            raise UserError(
                f"the system's clock was set back by {back:,.0f} s, and a checkpoint that was being written does not "
                "end; run the same command again to continue from the one before it"
            )


def remove_unfinished(folder: Path) -> None:
    """Removes what a failed write leaves, because the disk may be full."""
    for _ in range(25):  # Orbax's threads may still be putting files there
        unfinished = list(folder.glob("*.orbax-checkpoint-tmp"))
        if not unfinished:
            return
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.2)
