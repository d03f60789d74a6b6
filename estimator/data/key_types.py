"""Kinds of values of the keys that name data, each with one message for all that it is not."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from estimator.config import ConfigError, UserPaths


def _pair(pair: Any) -> Any:
    """JSON has no tuples; one file need not be a list."""
    if not isinstance(pair, list):
        return pair
    return tuple([[each] if isinstance(each, str) else each for each in pair[:1]] + pair[1:])


def _of_one_kind(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return 0.0
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError("eval_split", f"a fraction must be from 0 to below 1, not {value}")
    if isinstance(value, str) and (number := value.strip().removesuffix("%")).replace(".", "", 1).isdecimal():
        fraction = float(number) / (100 if value.strip().endswith("%") else 1)
        raise ConfigError("eval_split", f"{value!r} is a text; write the number {fraction:g} without quotes")
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or not kinds <= ({int, str} if isinstance(value, list) else {int, float, str, type(None)}):
        raise ConfigError("eval_split", "give shard numbers [0, 1], file patterns, or a fraction of the tokens: 0.05")
    return value


def _of_files(value: Any) -> Any:
    if value is not None and not all(isinstance(item, str) for item in (value if isinstance(value, list) else [value])):
        raise ConfigError("data_path", "give a folder, a file or a pattern, or a list of these")
    return value


Paths = Annotated[str | list[str] | None, UserPaths, BeforeValidator(_of_files)]
Part = Annotated[tuple[list[str], float], BeforeValidator(_pair)]  # files and their weight
Held = Annotated[list[int] | str | list[str] | float | None, UserPaths, BeforeValidator(_of_one_kind)]
