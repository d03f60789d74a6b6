"""Locks between the processes that share a folder.

filelock takes them with flock, which the system frees when a process dies, which a fork does not inherit, and which
Linux passes on to the server of NFS. On a file system without flock, as NFS without its lock service, a marker file is
the lock; that of a process that died is replaced on the same host. A lock that several processes may share is flock
itself: filelock's is a database.
"""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from estimator.errors import UserError

_WITHOUT_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
SEEN_SECONDS = 1.0  # without the lock, before a line says that it is waited for
LOOK_SECONDS = 0.5  # without the lock, before it is refused: `is_held` takes it for a moment


class Busy(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def exclusive(path: str | Path, message: str, *, wait: bool = False, remove: bool = False) -> Iterator[None]:
    """Holds the lock of the file `path`, which names its holder and is created, within the block.

    message: what another process that holds the lock does. It is printed and the lock waited for if `wait` is set, and
    raised as Busy otherwise; the holder is added to it. remove: removes the file with the lock.
    """
    from filelock import FileLock, SoftFileLock, Timeout, UnixFileLock  # here: other programs start without it

    lock: FileLock | SoftFileLock = FileLock(path)
    seconds = SEEN_SECONDS if wait else LOOK_SECONDS
    try:
        try:
            lock.acquire(timeout=seconds)
        except OSError as error:
            if error.errno not in _WITHOUT_FLOCK:
                raise
            lock = SoftFileLock(f"{path}.held")
            lock.acquire(timeout=seconds)
    except Timeout:
        if not wait:
            raise Busy(f"{message}{holder(lock.lock_file)}") from None
        print(f"{message}{holder(lock.lock_file)}; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        if isinstance(lock, UnixFileLock):  # a marker file has its own contents
            Path(path).write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        try:
            if remove:
                Path(path).unlink(missing_ok=True)
        finally:
            lock.release()


def holder(path: str | Path) -> str:
    """ " (process 123 on HOST)", or "" where the file of the lock does not tell."""
    with contextlib.suppress(OSError, ValueError):
        number, host = Path(path).read_text(encoding="utf-8").split()[:2]
        return f" (process {int(number)} on {host})"
    return ""


def is_held(path: str | Path) -> bool:
    """Whether a process holds the exclusive lock of `path`."""
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _WITHOUT_FLOCK:
                raise
            return Path(f"{path}.held").exists()
    return False


def share(path: str | Path) -> TextIO:
    """Keeps `exclusive` locks of `path` away for as long as the file that is returned is open.

    On a file system without flock it keeps nothing away, and says so.
    """
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _WITHOUT_FLOCK:
            raise
        print(f"{path}: this file system has no locks; do not let another run clear this cache", file=sys.stderr)
    return file
