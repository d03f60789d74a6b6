"""64-bit hashes that do not depend on library versions, and checksums of JSON objects."""

import functools
import json
from hashlib import sha256
from typing import Any

CHECKSUM = "checksum"
Bits = Any  # a Python integer, or a uint64 array


_MASK = (1 << 64) - 1


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


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a JSON object with a checksum of them, which `is_whole` compares."""
    return values | {CHECKSUM: _checksum(values)}


def is_whole(values: dict[str, Any]) -> bool:
    """Whether a JSON object is as it was sealed; also for one without a checksum, of an older version."""
    return values.get(CHECKSUM) in (
        None,
        _checksum({name: value for name, value in values.items() if name != CHECKSUM}),
    )


def _checksum(values: dict[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
