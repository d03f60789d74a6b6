"""Rows of CSV and TSV files, as objects by the names in their first line."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from estimator.corpus.containers import OnFault, plain_name
from estimator.corpus.file_types import TABLES, ending
from estimator.corpus.parts import File
from estimator.errors import UserError

MAX_FIELD = 1 << 27
BAD_ROW = "not a row of the table"
_DELIMITER = re.compile(r'("?)sep=([,;|\t])\1\r?\n?')  # a first line for Excel, which is no header


def rows(
    file: File, lines: Iterable[str], on_fault: OnFault, keys: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of the line that ends it, and the row. A .csv may be divided by semicolons or tabs too.

    keys: names or paths of the columns that are looked at; None for all.
    """
    csv.field_size_limit(MAX_FIELD)
    read = iter(lines)
    first = next(read, "")
    mark = _DELIMITER.fullmatch(first)
    delimiter = mark[2] if mark else TABLES.get(ending(plain_name(file.opened.name)), ",")
    if delimiter == "," and not mark:
        delimiter = max(",;\t|", key=first.count)
    table = csv.reader(_all(first, read), delimiter=delimiter, strict=True)
    if mark:
        next(table)
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
            refuse_repeated(header, columns_of(header, keys), f"{file.opened.label}, line {table.line_num}")
        elif len(row) == len(header):
            yield table.line_num, dict(zip(header, row, strict=True))
        elif row:
            where = f"{file.opened.label}, line {table.line_num}"
            on_fault(BAD_ROW, UserError(f"{where}: {len(row)} columns, but {len(header)} in the first line"))


def columns_of(names: Sequence[str], keys: Sequence[str] | None) -> list[str]:
    """The columns that are named by the keys, or by the beginnings of paths, with `id`; [] where only `id` would be."""
    heads = None if keys is None else {head for key in keys for head in (key, key.split(".")[0])}
    found = [name for name in dict.fromkeys(names) if heads is None or name in heads]
    return [*dict.fromkeys((*found, "id"))] if found and "id" in names else found


def refuse_repeated(names: Sequence[str], read: Sequence[str], where: str) -> None:
    """UserError where several columns have the name of one that is read."""
    repeated = next((name for name in read if name and names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(
            f'{where}: {names.count(repeated)} columns are called "{repeated}"; rename or remove all but one'
        )


def _all(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest
