"""Records as arrays."""

import contextlib
import itertools
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# The numbers of a record that are drawn or counted; also those of OTHERS: loss_8, loss_16, compile_seconds, ...
KEYS = frozenset({
    "step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "step_seconds", "input_wait", "flops",
    "time", "elapsed", "perplexity", "bits_per_byte",
})  # fmt: skip
POSITION = re.compile(r"loss_(\d+)")
OTHERS = re.compile(rf"{POSITION.pattern}|[a-z]+_seconds")
LARGEST = 1e30  # numbers beyond are no measurements, and too large to compute with


def is_number(key: str) -> bool:
    """Whether the values of a key are drawn or counted."""
    return key in KEYS or bool(OTHERS.fullmatch(key))


class Columns(dict[str, np.ndarray]):
    """Numbers of records by key, float64 [rows]; a key that no record has reads as NaN."""

    def __init__(self, columns: dict[str, np.ndarray], *, rows: int):
        super().__init__(columns)
        self.rows = rows

    def __missing__(self, key: str) -> np.ndarray:
        return np.full(self.rows, np.nan)

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> "Columns":
        """The columns of records; null, infinity and numbers above LARGEST are NaN.

        Raises TypeError, ValueError or OverflowError for no numbers.
        """
        keys = [key for key in set().union(*rows) if is_number(key)]
        regular = [key for key in keys if all(type(row.get(key)) in (int, float) for row in (rows[0], rows[-1]))]
        columns: dict[str, np.ndarray] = {}
        with contextlib.suppress(KeyError, TypeError):  # of a record without a number that the first and last one have
            numbers = itertools.chain.from_iterable(map(operator.itemgetter(*regular, "step"), rows))
            table = np.fromiter(numbers, np.float64, count=len(rows) * (len(regular) + 1))
            columns = dict(zip(regular, table.reshape(len(rows), len(regular) + 1).T.copy(), strict=False))
        others = set(keys) - set(columns)
        columns |= {key: np.array([row.get(key) for row in rows], dtype=np.float64) for key in others}
        for values in columns.values():
            values[np.abs(values) > LARGEST] = np.nan
        return cls(columns, rows=len(rows))

    @classmethod
    def joined(cls, parts: list["Columns"]) -> "Columns":
        """The rows of all parts, in order. Empties the list."""
        rows = sum(part.rows for part in parts)
        keys = set().union(*parts)
        columns = {key: np.concatenate([part.pop(key, np.full(part.rows, np.nan)) for part in parts]) for key in keys}
        return cls(columns, rows=rows)

    def has(self, key: str) -> bool:
        """Whether any record has the key."""
        return key in self and bool(np.isfinite(self[key]).any())

    def losses_by_position(self, row: int) -> dict[int, float]:
        """Number of tokens of context -> loss, as far as a record has it."""
        found = {int(match[1]): float(self[key][row]) for key in self if (match := POSITION.fullmatch(key))}
        return {tokens: found[tokens] for tokens in sorted(found) if np.isfinite(found[tokens])}
