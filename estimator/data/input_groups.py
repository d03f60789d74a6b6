"""Which shards an input trains on and in what way, by its name, and which are evaluated on.

An input function takes the configuration of the data (`data.config.InputConfig`) and returns its groups of shards.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from estimator import storage
from estimator.corpus import file_types
from estimator.corpus.containers import plain_name
from estimator.data import splits
from estimator.data.config import InputConfig
from estimator.data.splits import ShardGroup
from estimator.errors import UserError, of_key
from estimator.quantities import numbered
from estimator.shards import discovery

# The shards that the OpenWebText models of 2019 were evaluated on; they were trained on all others.
OPENWEBTEXT_EVALUATION = (1, 2, 11, 12, 16, 34, 36, 58, 60, 61, 62, 67, 83)


def openwebtext(config: InputConfig) -> list[ShardGroup]:
    return [_openwebtext(config, "openwebtext-newspaper", stitch=config.stitch or 42)]


def openwebtext_long(config: InputConfig) -> list[ShardGroup]:
    return [_openwebtext(config, "openwebtext-newspaper-long", stitch=config.stitch or 2)]


def openwebtext_longbiased(config: InputConfig) -> list[ShardGroup]:
    short = _openwebtext(config, "openwebtext-newspaper", stitch=42, any_name=False)
    long = _openwebtext(config, "openwebtext-newspaper-long", stitch=2, any_name=False)
    return [short._replace(weight=0.3), long._replace(weight=0.7)]


def generic_text(config: InputConfig) -> list[ShardGroup]:
    return _weighted(config, stitch=config.stitch or 0)


def packed(config: InputConfig) -> list[ShardGroup]:
    return _weighted(config, stitch=None) if config.dataset else [ShardGroup(_found("data_path", config.data_path))]


def _found(key: str, paths: str | list[str] | None) -> list[Path]:
    with of_key(key):
        for entry in as_list(paths):
            _refuse_text(entry)
        return discovery.find(as_list(paths))


def _refuse_text(entry: str) -> None:
    """Raises UserError where a path leads to text and to no shards."""
    if os.path.isdir(entry):
        there = [os.path.join(entry, name) for name in os.listdir(entry)]
    else:
        there = [entry] if os.path.isfile(entry) else [] if "://" in entry else storage.glob(entry)
    texts = list(filter(_is_text, there))
    if texts and not any(map(discovery.is_shard, there)):
        raise UserError(f'{entry}: no shards, but text ({discovery.listed(texts)}); train on it with "input": "text"')


def _is_text(path: str) -> bool:
    """Whether a file has the name of one with text, and is no list of shards."""
    file = Path(path)
    is_named = file_types.ending(plain_name(file.name)) in file_types.IN_FOLDERS
    return is_named and file.is_file() and discovery.read_manifest(file.parent, file.stem) is None


def _weighted(config: InputConfig, *, stitch: int | None) -> list[ShardGroup]:
    """A group for each part of dataset."""
    if config.data_path is not None and not os.path.isdir(str(config.data_path)):
        raise UserError(f"data_path: {config.data_path} is no folder; give the one that the files of dataset are in")
    return [
        ShardGroup(_found("dataset", joined(config, "dataset", files)), stitch, weight)
        for files, weight in config.dataset or []
    ]


def shared_files(groups: Sequence[ShardGroup], held_out: Sequence[Path]) -> list[str]:
    """A line where several groups train on the same file: another weight may be meant, or a pattern finds too much; and
    one where a group has a file under several names, by symbolic links."""
    found: dict[str, dict[int, list[Path]]] = {}  # names by group
    for number, group in enumerate(groups, start=1):
        for path in group.files:
            if path not in held_out:
                found.setdefault(os.path.realpath(path), {}).setdefault(number, []).append(path)
    lines = []
    if shared := {path: parts for path, parts in found.items() if len(parts) > 1}:
        first, parts = next(iter(shared.items()))
        more = f", and {numbered(len(shared) - 1, 'other')} in several" if len(shared) > 1 else ""
        places = f"{os.path.basename(first)} is in the parts {' and '.join(map(str, parts))}{more}"
        lines.append(
            f"dataset: {places}: each part takes its share of windows from it; name it in one, unless this is meant"
        )
    if linked := [names for parts in found.values() for names in parts.values() if len(names) > 1]:
        more = f", and {numbered(len(linked) - 1, 'other')} with several names" if len(linked) > 1 else ""
        names = " and ".join(map(str, linked[0]))
        lines.append(f"{names} are one file{more}: it is trained on under each name; keep one, unless this is meant")
    return lines


def _openwebtext(config: InputConfig, name: str, *, stitch: int, any_name: bool = True) -> ShardGroup:
    """The shards of this name in data_path, or else all that have a number, unless those are OpenWebText's others."""
    there = _found("data_path", config.data_path)
    files = [path for path in there if discovery.name(path) == name]
    if files:
        return ShardGroup(files, stitch)
    files = [path for path in there if discovery.number(path) is not None]
    others = any(map(_is_openwebtext, files))
    if not any_name or others or not files:
        needs = f"data_path: input {config.input} needs shards {name}_0.tfrecords, ..."
        advice = "; set input to the other of openwebtext and openwebtext_long" if any_name and others else ""
        raise UserError(f"{needs}; found {discovery.listed(there)}{advice}")
    note = f"no shards are named {name}_*: input {config.input} takes all, {stitch} documents joined for a window"
    return ShardGroup(files, stitch, note=note)


def held_out(config: InputConfig, files: list[Path]) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all tokens."""
    rule = config.eval_split
    if rule is None and config.input.startswith("openwebtext") and any(map(_is_openwebtext, files)):
        rule = list(OPENWEBTEXT_EVALUATION)
    return splits.held_out(files, joined(config, "eval_split", rule) if is_patterns(rule) else rule)


def _is_openwebtext(path: Path) -> bool:
    return discovery.name(path).startswith("openwebtext-newspaper")


def as_list(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def joined(config: InputConfig, key: str, files: str | list[str]) -> list[str]:
    """Files and patterns within data_path, if that is a folder; those that only the working folder has stay.

    A name that exists in one of the two is no pattern in the other.
    Raises UserError, naming the key and both places, where neither has one.
    """
    folder = config.data_path if isinstance(config.data_path, str) and os.path.isdir(config.data_path) else ""
    inside = {file: os.path.join(folder, file) for file in as_list(files)}
    looks = (storage.exists, storage.glob)
    found = {
        file: next((each for is_there in looks for each in (path, file) if is_there(each)), None)
        for file, path in inside.items()
    }
    for file, path in inside.items():
        if found[file] is None and path != file:
            places = f"{os.path.join(folder, '')} (data_path) nor in {os.path.join(os.getcwd(), '')}"
            deeper = next(iter(storage.glob(os.path.join(folder, "**", file))), None)
            fix = "correct the name, or write its whole path"
            if deeper:
                above = os.path.relpath(deeper, folder).split("/")[: -len(file.split("/"))]
                fix = f"did you mean {'/'.join([*above, file])}?"
            raise UserError(f"{key}: {file} is neither in {places}; {fix}")
    return [found[file] or path for file, path in inside.items()]


def is_patterns(rule: Any) -> TypeGuard[str | list[str]]:
    return isinstance(rule, str) or (isinstance(rule, list) and isinstance(rule[0], str))
