"""Shuffles that are computed index by index, from a hash and not from a random generator.

The order of the data is a function of (seed, purpose, epoch, index) and never changes with the version of a library.
"""

import functools
import math

import numpy as np

from estimator.hashing import _MASK, Bits, splitmix64

_ROUNDS, _ROUND_KEY = 16, 0xD1342543DE82EF95  # so many make even a shuffle of five uniform
_CHUNK, _NEIGHBORS = 1 << 16, 1 << 10  # indices computed together


def permute(index: int, size: int, *, key: int) -> int:
    """Where a shuffle of 0 .. size - 1, chosen by the key, puts an index. The memory does not grow with the size."""
    first = index - index % _NEIGHBORS
    return _neighbours(first, min(first + _NEIGHBORS, size), size, key)[index - first]


@functools.lru_cache(maxsize=8)
def _neighbours(first: int, last: int, size: int, key: int) -> list[int]:
    """Indices are asked for one after the other: computed many at a time they take a hundredth of the time."""
    return _permuted(first, last, size, key).tolist()


def shuffled(size: int, *, key: int) -> np.ndarray:
    """uint32 [size]: all of `permute`."""
    order = np.empty(size, np.uint32)
    for first in range(0, size, _CHUNK):
        last = min(first + _CHUNK, size)
        order[first:last] = _permuted(first, last, size, key)
    return order


def _permuted(first: int, last: int, size: int, key: int) -> np.ndarray:
    part = _rounds(np.arange(first, last, dtype=np.uint64), size, key)
    while (outside := part >= size).any():
        part[outside] = _rounds(part[outside], size, key)
    return part


def _rounds(index: Bits, size: int, key: int) -> Bits:
    """A Feistel network over a grid of at least `size` places, hardly more: what falls outside goes through again."""
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    row, column = index // columns, index % columns
    for number in range(0, _ROUNDS, 2):
        row = (row + splitmix64(column ^ (key + number * _ROUND_KEY & _MASK)) % rows) % rows
        column = (column + splitmix64(row ^ (key + (number + 1) * _ROUND_KEY & _MASK)) % columns) % columns
    return row * columns + column
