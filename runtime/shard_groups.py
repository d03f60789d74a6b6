"""Which shards an input trains on and in what way, by its name, and which are evaluated on.

An input function takes the configuration of the data (`inputs.InputConfig`) and returns its groups of shards.
"""

import os
from pathlib import Path
from typing import Any, TypeGuard

from runtime import shards
from runtime.errors import UserError
from runtime.shards import Group

# The shards that the OpenWebText models of 2019 were evaluated on; they were trained on all others.
OPENWEBTEXT_EVALUATION = (1, 2, 11, 12, 16, 34, 36, 58, 60, 61, 62, 67, 83)


def openwebtext(config: Any) -> list[Group]:
    return [_openwebtext(config, "openwebtext-newspaper", stitch=config.stitch or 42)]


def openwebtext_long(config: Any) -> list[Group]:
    return [_openwebtext(config, "openwebtext-newspaper-long", stitch=config.stitch or 2)]


def openwebtext_longbiased(config: Any) -> list[Group]:
    short = _openwebtext(config, "openwebtext-newspaper", stitch=42, any_name=False)
    long = _openwebtext(config, "openwebtext-newspaper-long", stitch=2, any_name=False)
    return [short._replace(weight=0.3), long._replace(weight=0.7)]


def generic_text(config: Any) -> list[Group]:
    return _weighted(config, stitch=config.stitch or 0)


def packed(config: Any) -> list[Group]:
    return _weighted(config, stitch=None) if config.dataset else [Group(shards.find(as_list(config.data_path)))]


def _weighted(config: Any, *, stitch: int | None) -> list[Group]:
    """A group for each part of dataset."""
    if config.data_path is not None and not os.path.isdir(str(config.data_path)):
        raise UserError(f"data_path: {config.data_path} is no folder; give the one that the files of dataset are in")
    return [Group(shards.find(joined(config, files)), stitch, weight) for files, weight in config.dataset or []]


def _openwebtext(config: Any, name: str, *, stitch: int, any_name: bool = True) -> Group:
    """The shards of this name in data_path, or else all that have a number, unless those are OpenWebText's others."""
    there = shards.find(as_list(config.data_path))
    files = [path for path in there if shards.name(path) == name]
    if files:
        return Group(files, stitch)
    files = [path for path in there if shards.number(path) is not None]
    others = any(shards.name(path).startswith("openwebtext-newspaper") for path in files)
    if not any_name or others or not files:
        needs = f"data_path: input {config.input} needs shards {name}_0.tfrecords, ..."
        advice = "; set input to the other of openwebtext and openwebtext_long" if any_name and others else ""
        raise UserError(f"{needs}; found {shards.listed(there)}{advice}")
    note = f"no shards are named {name}_*: input {config.input} takes all, {stitch} documents joined for a window"
    return Group(files, stitch, note=note)


def held_out(config: Any, files: list[Path]) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all documents."""
    rule = config.eval_split
    if rule is None and config.input.startswith("openwebtext"):
        rule = list(OPENWEBTEXT_EVALUATION)
    return shards.held_out(files, joined(config, rule) if is_patterns(rule) else rule)


def as_list(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def joined(config: Any, files: str | list[str]) -> list[str]:
    """Files named in relation to data_path, where that is a folder."""
    folder = config.data_path if isinstance(config.data_path, str) and os.path.isdir(config.data_path) else ""
    return [os.path.join(folder, file) for file in as_list(files)]


def is_patterns(rule: Any) -> TypeGuard[str | list[str]]:
    return isinstance(rule, str) or (isinstance(rule, list) and isinstance(rule[0], str))
