"""Rows of CSV and TSV files, as objects by the names in their first line."""

import csv
from collections.abc import Iterable, Iterator

from estimator.corpus.containers import OnFault, plain_name
from estimator.corpus.file_types import TABLES, ending
from estimator.corpus.parts import File
from estimator.errors import UserError

MAX_FIELD = 1 << 27
BAD_ROW = "not a row of the table"


def rows(file: File, lines: Iterable[str], on_fault: OnFault) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of the line that ends it, and the row. A .csv may be divided by semicolons or tabs too."""
    csv.field_size_limit(MAX_FIELD)
    read = iter(lines)
    first = next(read, "")
    delimiter = TABLES.get(ending(plain_name(file.opened.name)), ",")
    if delimiter == ",":
        delimiter = max(",;\t|", key=first.count)
    table = csv.reader(_all(first, read), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            row = next(table, None)
        except csv.Error as error:
            where = f"{file.opened.label}, line {table.line_num}"
            on_fault(BAD_ROW, UserError(f"{where}: not valid CSV ({error}); is a quotation mark left open before it?"))
            continue
        if row is None:
            return
        if header is None:
            header = row
        elif len(row) == len(header):
            yield table.line_num, dict(zip(header, row, strict=True))
        elif row:
            where = f"{file.opened.label}, line {table.line_num}"
            on_fault(BAD_ROW, UserError(f"{where}: {len(row)} columns, but {len(header)} in the first line"))


def _all(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest
