"""Checkpoints of a run in a store that Orbax cannot write to (s3://): written to this machine, then copied.

A checkpoint counts as there when its list of files with their checksums is, which is copied last. The copies of this
machine are kept, so that a run that goes on here fetches nothing.
"""

import glob
import json
import secrets
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from google_crc32c import Checksum

from runtime import local_copies, storage
from runtime.errors import UserError

COMPLETE = "complete.json"  # {file: [bytes, crc32c]}
_BLOCK = 1 << 22


class CheckpointCopies:
    """`local`: where Orbax finds the newest checkpoint of `remote`, and where it writes others."""

    def __init__(self, remote: str, *, writer: bool, keep_last: int, keep_every: int | None):
        self._remote = remote
        self._keep_last, self._keep_every = keep_last, keep_every
        self.local = local_copies.folder_of(remote, kind="checkpoints")
        there = self._steps_there()
        if writer:  # of runs that were cleaned, or killed before they had copied it
            for step in self._steps_here():
                if step not in there or not self._is_copy(step, storage.read_bytes(self._complete(step))):
                    shutil.rmtree(self.local / str(step))
        elif there:
            self._choose_folder(max(there))
        self.local.mkdir(parents=True, exist_ok=True)
        if there:
            self._fetch(max(there))

    def _choose_folder(self, step: int) -> None:
        """The folder of the writer, where its newest checkpoint is that of the store, or else one for this alone."""
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
        """Copies what is new, and removes what is not kept; returns when that is done."""
        there = self._steps_there()
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
            storage.remove(self._complete(step))  # first, so that what is half removed does not count
            storage.remove(storage.join(self._remote, str(step)))

    def _kept(self, steps: Iterable[int]) -> set[int]:
        kept = set(sorted(steps)[-self._keep_last :])
        return kept | {step for step in steps if self._keep_every and step % self._keep_every == 0}

    def _fetch(self, step: int) -> None:
        target = self.local / str(step)
        if target.is_dir():
            return
        mark = storage.read_bytes(self._complete(step))
        arriving = self.local.with_name(f"{self.local.name}.{secrets.token_hex(4)}.tmp")
        try:
            for name, (size, checksum) in json.loads(mark).items():
                path = arriving / name
                path.parent.mkdir(parents=True, exist_ok=True)
                storage.download(storage.join(self._remote, str(step), name), path)
                if path.stat().st_size != size or _checksum(path) != checksum:
                    raise UserError(
                        f"{storage.join(self._remote, str(step), name)} is not what was written; remove the folder of "
                        f"step {step} to continue from the one before"
                    )
            storage.write_bytes_atomic(str(arriving / COMPLETE), mark)
            if not target.is_dir():
                arriving.rename(target)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _complete(self, step: int) -> str:
        return storage.join(self._remote, str(step), COMPLETE)

    def _steps_there(self) -> set[int]:
        names = [path.removeprefix(f"{self._remote}/").split("/") for path in storage.listing(self._remote)]
        return {int(name[0]) for name in names if name[1:] == [COMPLETE] and name[0].isdigit()}

    def _steps_here(self) -> set[int]:
        if not self.local.is_dir():
            return set()
        return {int(path.name) for path in self.local.iterdir() if path.name.isdigit()}


def _checksum(path: Path) -> str:
    checksum = Checksum()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.digest().hex()
