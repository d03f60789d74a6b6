"""Rows of Parquet files, as objects by their columns; whole row groups are read, a batch at a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from estimator import storage
from estimator.corpus.containers import INSTALL, Damaged, on_disk
from estimator.corpus.parts import File
from estimator.errors import import_failed

BATCH_ROWS = 1024


@contextlib.contextmanager
def _opened(label: str, file: IO[bytes]) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise import_failed(error, f"reading .parquet files needs the package pyarrow: {INSTALL}") from error
    try:
        yield pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        message = str(error).partition("\n")[0]
        raise Damaged(f"{label}: damaged or no Parquet file ({message}); copy or fetch it again") from None


def group_sizes(path: str) -> list[int]:
    """Bytes of each row group in the file, about."""
    with storage.open(path) as raw, _opened(path, raw) as file:
        return _sizes(file, storage.size(path))


def _sizes(file: Any, size: int) -> list[int]:
    """Shares of the file's size by those of the unpacked groups: metadata of columns are never asked for, because
    pyarrow ends the process where those of a damaged file make no sense."""
    unpacked = [max(1, file.metadata.row_group(i).total_byte_size) for i in range(file.metadata.num_row_groups)]
    return [size * each // sum(unpacked) for each in unpacked]


def rows(
    file: File, progress: Callable[[int], None] | None, keys: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number, in the part, and the values of each row of the row groups `start` to `stop`.

    keys: names or paths whose columns are read, with `id`; None for all, and for what no column is named by.
    """
    part, number, done = file.part, 0, 0
    with _opened(file.opened.label, on_disk(file.opened)) as table:
        columns = table.schema_arrow.names
        wanted = [name for name in columns if keys is None or any(name in (key, key.split(".")[0]) for key in keys)]
        if not wanted:
            wanted = columns[:]  # the error names them all
        elif keys is not None and "id" in columns:
            wanted = [*dict.fromkeys((*wanted, "id"))]
        sizes = _sizes(table, storage.size(part.path))
        for group in range(part.start, table.metadata.num_row_groups if part.stop is None else part.stop):
            for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                values = [batch.column(name).to_pylist() for name in wanted]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, dict(zip(wanted, row, strict=True))
            done += sizes[group]
            if progress:
                progress(done)
