"""Rows of Parquet files, as objects by their columns; whole row groups are read, a batch at a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from estimator import storage
from estimator.corpus import tables
from estimator.corpus.containers import INSTALL, Damaged, OnFault, on_disk
from estimator.corpus.parts import NO_TEXT, File
from estimator.errors import UserError, import_failed

BATCH_ROWS = 1024
UNREADABLE = object()  # in the place of a value


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
    file: File, progress: Callable[[int], None] | None, keys: Sequence[str] | None, on_fault: OnFault
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number, in the part, and the values of each row of the row groups `start` to `stop`.

    keys: names or paths whose columns are read, with `id`; the others are null. None for all, as where no column is
    named by the keys; null is in the place of values that Python has no type for then.
    """
    part, number, done = file.part, 0, 0
    with _opened(file.opened.label, on_disk(file.opened)) as table:
        names = table.schema_arrow.names
        wanted = tables.columns_of(names, keys)
        needed = [name for name in wanted if keys is not None and (name != "id" or name in keys)]
        if wanted or keys is None:
            tables.refuse_repeated(names, wanted, file.opened.label)
        wanted = wanted or list(dict.fromkeys(names))  # the error names them all
        others = dict.fromkeys(names)
        sizes = _sizes(table, storage.size(part.path))
        for group in range(part.start, table.metadata.num_row_groups if part.stop is None else part.stop):
            for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                columns = [batch.column(batch.schema.names.index(name)) for name in wanted]
                values = [_converted(column) for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    if UNREADABLE not in row:
                        yield number, others | dict(zip(wanted, row, strict=True))
                        continue
                    known = dict(zip(wanted, row, strict=True))
                    fault = next((name for name in needed if known[name] is UNREADABLE), None)
                    if fault is None:
                        yield number, others | {key: value for key, value in known.items() if value is not UNREADABLE}
                    else:
                        what = f'the value of "{fault}", a {columns[wanted.index(fault)].type}, cannot be read'
                        error = UserError(f"{file.where(number)}: {what}; write the column as text, or leave it out")
                        on_fault(NO_TEXT, error)
            done += sizes[group]
            if progress:
                progress(done)


def _converted(column: Any) -> list[Any]:
    """A column's values; UNREADABLE where Python has no type for one, as for times between microseconds."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_scalar(each) for each in column]


def _scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return UNREADABLE
