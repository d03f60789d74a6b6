"""Locks a run's folder against other trainers."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from estimator import storage
from estimator.errors import UserError
from estimator.storage import lease, locks

LOCK = "lock"


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[Callable[[], None]]:
    """Creates the folder and locks it against other trainers; the system releases the lock of a process that dies.

    Yields a function that raises UserError if the folder was moved or replaced since training began.
    """
    if storage.is_remote(folder):
        with lease.held(storage.join(str(folder), LOCK), folder=str(folder)):
            yield lambda: None  # a lease that is taken over ends the process
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    began = os.stat(folder)
    path = Path(folder) / LOCK
    with locks.exclusive(path, f"another process is training in {folder}; stop it, or choose another model_path"):
        lock = path.stat()

        def check() -> None:
            try:
                same = os.path.samestat(os.stat(folder), began)
                # A lock file removed by hand does not mean that another process trains.
                same = same and (not path.exists() or os.path.samestat(path.stat(), lock))
            except FileNotFoundError:
                same = False
            if not same:
                raise UserError(
                    f"{folder} was removed, moved or replaced while this training ran; it stops and writes nothing more"
                )

        check()  # --clean may have removed the lock between its opening and its locking
        yield check
