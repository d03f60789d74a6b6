"""Checkpoints in a bucket that Orbax cannot write to (s3://): written locally, then copied.

A checkpoint is complete once its list of files and checksums, copied last, exists. The local copies are kept, so a
run that resumes on this machine downloads nothing.
"""

import glob
import json
import secrets
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from google_crc32c import Checksum

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.storage import cache_root

COMPLETE = "complete.json"  # {file: [bytes, crc32c]}
COMMITTED = "commit_success.txt"  # which Orbax writes last in gs://
_BLOCK = 1 << 22


def steps_in(remote: str) -> set[int]:
    """Steps of the checkpoints that are complete in the bucket."""
    mark = COMMITTED if remote.startswith("gs://") else COMPLETE
    names = [path.removeprefix(f"{remote}/").split("/") for path in storage.listing(remote)]
    return {int(name[0]) for name in names if name[1:] == [mark] and name[0].isdigit()}


class CheckpointCopies:
    """Mirrors checkpoints: Orbax reads and writes in `local`, copied from and to `remote`."""

    def __init__(self, remote: str, *, writer: bool, keep_last: int, keep_every: int | None, protected: set[int]):
        self._remote = remote
        self._keep_last, self._keep_every, self._protected = keep_last, keep_every, protected
        self.local = cache_root.folder_of(remote, kind="checkpoints")
        there = steps_in(self._remote)
        if writer:  # left by runs that were cleaned, or killed before the copy finished
            for step in self._steps_here():
                if step not in there or not self._is_copy(step, storage.read_bytes(self._complete(step))):
                    shutil.rmtree(self.local / str(step))
        elif there:
            self._choose_folder(max(there))
        self.local.mkdir(parents=True, exist_ok=True)
        if there:
            self._fetch(max(there))

    @property
    def steps(self) -> set[int]:
        return steps_in(self._remote)

    def _choose_folder(self, step: int) -> None:
        """The writer's folder if its newest checkpoint equals the bucket's, else a separate one."""
        contents = storage.read_bytes(self._complete(step))
        if max(self._steps_here(), default=None) == step and self._is_copy(step, contents):
            return
        name = self.local.name
        self.local = self.local.with_name(f"{name}.read.{sha256(contents).hexdigest()[:16]}")
        for other in self.local.parent.glob(f"{glob.escape(name)}.read.*"):
            if other != self.local:
                shutil.rmtree(other, ignore_errors=True)

    def _is_copy(self, step: int, contents: bytes) -> bool:
        mark = self.local / str(step) / COMPLETE
        return mark.is_file() and mark.read_bytes() == contents

    def push(self) -> None:
        """Copies new checkpoints to the bucket and removes rotated ones; returns when done."""
        there = steps_in(self._remote)
        for step in sorted(self._steps_here() - there):
            folder = self.local / str(step)
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            files.pop(COMPLETE, None)
            for name, path in files.items():
                storage.upload(path, storage.join(self._remote, str(step), name))
            contents = {name: [path.stat().st_size, _checksum(path)] for name, path in files.items()}
            mark = json.dumps(contents, indent=0).encode()
            storage.write_bytes_atomic(self._complete(step), mark)
            storage.write_bytes_atomic(str(folder / COMPLETE), mark)
            there.add(step)
        for step in there - self._kept(there):
            storage.remove(self._complete(step))  # first, so that a half-removed checkpoint does not count
            storage.remove(storage.join(self._remote, str(step)))

    def _kept(self, steps: Iterable[int]) -> set[int]:
        kept = set(sorted(steps)[-self._keep_last :]) | self._protected
        return kept | {step for step in steps if self._keep_every and step % self._keep_every == 0}

    def _fetch(self, step: int) -> None:
        target = self.local / str(step)
        if target.is_dir():
            return
        mark = storage.read_bytes(self._complete(step))
        arriving = self.local.with_name(f"{self.local.name}.{secrets.token_hex(4)}.tmp")
        try:
            for name, (size, checksum) in _files_of(mark, self._complete(step)).items():
                path = arriving / name
                path.parent.mkdir(parents=True, exist_ok=True)
                storage.download(storage.join(self._remote, str(step), name), path)
                if path.stat().st_size != size or _checksum(path) != checksum:
                    raise UserError(
                        f"{storage.join(self._remote, str(step), name)} differs from the file that was written; fetch "
                        f"an intact copy of step {step}, or move it out of the run to continue from the step before"
                    )
            storage.write_bytes_atomic(str(arriving / COMPLETE), mark)
            if not target.is_dir():
                arriving.rename(target)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _complete(self, step: int) -> str:
        return storage.join(self._remote, str(step), COMPLETE)

    def _steps_here(self) -> set[int]:
        if not self.local.is_dir():
            return set()
        return {int(path.name) for path in self.local.iterdir() if path.name.isdigit()}


def _files_of(mark: bytes, path: str) -> dict[str, tuple[int, str]]:
    """The size and checksum of each file that a mark lists. path: of the mark, for errors."""
    try:
        files = {name: (int(size), str(checksum)) for name, (size, checksum) in json_text.loads(mark).items()}
        parts = {part for name in files for part in name.split("/")}
        if parts and not parts & {"", ".", ".."} and all(map(str.isprintable, parts)):  # ".." leads out of the copies
            return files
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass
    raise UserError(
        f"{path} is damaged: it is no list of the checkpoint's files; restore it from a copy, or move this step out of "
        "the run to continue from the step before"
    )


def _checksum(path: Path) -> str:
    checksum = Checksum()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.digest().hex()
