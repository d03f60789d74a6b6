"""Copies a growing local folder to a bucket: for files that are appended to, which objects cannot be.

Changed files are copied every half minute in the background, and whenever `sync` is called.
"""

import sys
import tempfile
import threading
from pathlib import Path

from estimator import storage
from estimator.errors import UserError

SECONDS = 30.0


class Mirror:
    """`local`, an empty folder with copies of the remote files `names` that exist."""

    def __init__(self, remote: str, names: list[str]):
        self.remote = remote
        self._temporary = tempfile.TemporaryDirectory(prefix="gpt2-run-")
        self.local = Path(self._temporary.name)
        self._copied: dict[Path, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        for name in names:
            path = storage.join(remote, name)
            if storage.is_file(path):
                storage.download(path, self.local / name)
                self._copied[self.local / name] = _state(self.local / name)
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(SECONDS):
            try:
                self.sync()
            except UserError as error:  # the next one may succeed, and the one before a checkpoint has to
                print(f"warning: {error}", file=sys.stderr, flush=True)

    def sync(self) -> None:
        """Copies the files that have changed; returns when they have arrived."""
        with self._lock:
            for path in sorted(each for each in self.local.rglob("*") if each.is_file() and each.suffix != ".tmp"):
                state = _state(path)
                if self._copied.get(path) != state:
                    storage.upload(path, storage.join(self.remote, path.relative_to(self.local).as_posix()))
                    self._copied[path] = state

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        try:
            self.sync()
        finally:
            self._temporary.cleanup()


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
