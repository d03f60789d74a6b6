"""The files of an extraction: packed documents, arrays of their digests, and plans and reports."""

import contextlib
import gzip
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from estimator import format_version, json_text, storage
from estimator.corpus.build import marks
from estimator.errors import UserError

RESTORE = "restore it from a copy, or extract all again with --overwrite"
GZIP_LEVEL = 6


@contextlib.contextmanager
def packed(path: str) -> Iterator[tuple[gzip.GzipFile, marks.Summed]]:
    """A gzip file to write, without a name or time in it, that appears when it is complete; and what sums its bytes."""
    with storage.new_file(path) as target:
        summed = marks.Summed(target)
        with gzip.GzipFile("", "wb", GZIP_LEVEL, summed, mtime=0) as file:
            yield file, summed


def load(path: str) -> np.ndarray:
    """An array, memory-mapped if the file is local."""
    if storage.is_remote(path):
        return np.load(io.BytesIO(storage.read_bytes(path)))
    return np.load(path, mmap_mode="r")


def values_of(path: str) -> dict[str, Any]:
    """The contents of a plan or report. Raises UserError for one that is damaged."""
    data = storage.read_bytes(path)
    try:
        values = json_text.loads(data)
        if not isinstance(values, dict) or not isinstance(values.get("plan"), dict):
            raise ValueError("it has no plan")
        marks.sums_of(values.get("sums", {}))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {RESTORE}") from None
    format_version.check(values, path)
    return values
