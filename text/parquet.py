"""Documents out of Parquet files: a row each, the text in one column; whole row groups are read, a batch at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

from runtime import storage
from runtime.errors import UserError
from text import readers
from text.readers import INSTALL, OnFault, Part, Progress

BATCH_ROWS = 1024


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"reading .parquet files needs the package pyarrow: {INSTALL}") from None
    with storage.open(path) as file:
        try:
            yield pyarrow.parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError) as error:
            message = str(error).partition("\n")[0]
            raise UserError(f"{path}: damaged or no Parquet file ({message}); copy or fetch it anew") from None


def group_sizes(path: str) -> list[int]:
    """Bytes of each row group, as they are in the file."""
    with _opened(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [sum(group.column(i).total_compressed_size for i in range(group.num_columns)) for group in groups]


def texts(part: Part, *, text_key: str, on_fault: OnFault, progress: Progress | None) -> Iterator[tuple[str, str]]:
    """The name and the text of each row of the row groups `start` to `stop`. See `readers.texts`."""
    number = 0
    try:
        with _opened(part.path) as file:
            columns = file.schema_arrow.names
            if text_key not in columns:
                raise UserError(
                    f'{part.path}: no column "{text_key}"; name the column of the text, which has {", ".join(columns)}'
                )
            wanted = [name for name in dict.fromkeys((text_key, "id")) if name in columns]
            stop = file.metadata.num_row_groups if part.stop is None else part.stop
            sizes = group_sizes(part.path)
            done = 0
            for group in range(part.start, stop):
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                    names = batch.column("id").to_pylist() if "id" in wanted else [None] * batch.num_rows
                    for name, text in zip(names, batch.column(text_key).to_pylist(), strict=True):
                        number += 1
                        if isinstance(text, str):
                            yield name if name and isinstance(name, str) else f"{part.stem}-{number}", text
                            continue
                        error = UserError(f'{part.path}, row {number}: the value of "{text_key}" is not text')
                        on_fault(readers.NO_KEY, error)
                done += sizes[group]
                if progress:
                    progress(done)
    except UserError as error:
        on_fault(readers.DAMAGED, error)
