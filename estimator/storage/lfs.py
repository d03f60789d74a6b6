"""Recognizes what a clone without Git LFS has in the place of a large file."""

import os

from estimator.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1"


def refuse_pointer(path: str | os.PathLike[str]) -> None:
    """Raises UserError if a local file is a pointer of Git LFS."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder")
