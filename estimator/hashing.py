"""64-bit hashes, and shuffles that are computed from them index by index.

None depends on the version of a library, so that the order of the data is a function of (seed, purpose, epoch, index)
forever.
"""

import functools
import math
from typing import Any

import numpy as np

Bits = Any  # a Python integer, or a uint64 array
_MASK = (1 << 64) - 1
_ROUNDS, _ROUND_KEY = 16, 0xD1342543DE82EF95  # so many make even a shuffle of five uniform
_CHUNK, _NEIGHBORS = 1 << 16, 1 << 10  # indices computed together


def splitmix64(value: Bits) -> Bits:
    """Finalizer of SplitMix64: a bijective 64-bit hash."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=64)
def key_of(*parts: int) -> int:
    """Hashes several numbers into one 64-bit number."""
    key = 0
    for part in parts:
        key = splitmix64(key ^ (part & _MASK))
    return key


# Shuffles.


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
