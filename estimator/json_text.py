"""Parses JSON from outside, with one kind of error."""

import json
from typing import Any

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
