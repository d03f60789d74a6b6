"""What becomes of reads and writes of checkpoints that fail, or that do not end."""

import contextvars
import shutil
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

from estimator.errors import CHECKPOINT_READER, UserError

SLOW_SECONDS = 60  # of a read or write, before the clock is looked at; and the least change of it that counts
WRITTEN = "a checkpoint that was being written does not end; run the same command again to continue from the one before"
READ = "a checkpoint that is being read does not end; run the same command again"
_STARTED = time.time() - time.monotonic()
T = TypeVar("T")


def await_done(pending: futures.Future[Any], what: str) -> None:
    """Returns when a slow read or write has ended. Raises UserError if the system's clock was set back in this process.

    TensorStore waits until times of that clock: after it was set back by hours or years, it waits for as long.
    what: WRITTEN or READ.
    """
    while futures.wait([pending], SLOW_SECONDS).not_done:
        back = _STARTED - (time.time() - time.monotonic())
        if back >= SLOW_SECONDS:
            raise UserError(f"the system's clock was set back by {back:,.0f} s, and {what}")


def started(read: Callable[[], T]) -> futures.Future[T]:
    """A read in a thread of its own, for which neither its caller nor the end of the process must wait."""
    pending: futures.Future[T] = futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            pending.set_result(context.run(read))
        except BaseException as error:
            pending.set_exception(error)

    threading.Thread(target=run, daemon=True, name=CHECKPOINT_READER).start()
    return pending


def remove_unfinished(folder: Path) -> None:
    """Removes what a failed write leaves, because the disk may be full."""
    for _ in range(25):  # Orbax's threads may still be putting files there
        unfinished = list(folder.glob("*.orbax-checkpoint-tmp"))
        if not unfinished:
            return
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.2)
