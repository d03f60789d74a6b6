"""Parses JSON from outside, with one kind of error, and seals objects with a checksum."""

import json
from hashlib import sha256
from typing import Any

CHECKSUM = "checksum"
MOST_NESTED = 100  # lists and objects within each other; far below what Python can walk through and write again
_TOO_DEEP = f"more than {MOST_NESTED} lists or objects within each other"


def loads(text: str | bytes) -> Any:
    """`json.loads`, with ValueError, and not RecursionError, where lists and objects are nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    layer = [value]
    for _ in range(MOST_NESTED):
        layer = [child for each in layer for child in _children(each) if isinstance(child, list | dict)]
        if not layer:
            return value
    raise ValueError(_TOO_DEEP)


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
