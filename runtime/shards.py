"""Which shards there are, and which of their documents are trained on and which evaluated on: none is in both."""

import difflib
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime import open_files, token_arrays
from runtime.array_files import Ends
from runtime.errors import UserError
from runtime.shuffles import splitmix64
from runtime.tfrecord import Shard, open_shard
from runtime.windows import Documents

_NAME = re.compile(r"(?P<name>.*?)(_(?P<number>\d+))?\.(tfrecords?(\.gz)?|npy|npz)")
_PART = 1 << 16
_EVALUATION_NAME = re.compile(r"(?<![a-z])(valid|eval)", re.IGNORECASE)
EVALUATION_FRACTION = 0.05


class Group(NamedTuple):
    """Shards that are trained on in one way.

    stitch: documents joined for each window; 0 is as many as fill a window on average; None packs every token instead.
    weight: share of the windows, among all groups. note: a line for the console, if there is something to say.
    """

    files: list[Path]
    stitch: int | None = None
    weight: float = 1.0
    note: str | None = None


def find(paths: Iterable[str]) -> list[Path]:
    """The shards that folders, files and patterns name, in the order of their numbers; UserError where none is."""
    found: dict[Path, None] = {}
    for entry in paths:
        if "://" in entry:
            raise UserError(
                f"{entry}: shards are read from local disks; copy them there, or mount the bucket as a folder"
            )
        files = _expand(entry)
        # A shard that is there both packed and unpacked is one shard.
        files = [
            Path(os.path.abspath(file)) for file in files if file.removesuffix(".gz") not in files or file[-3:] != ".gz"
        ]
        found |= dict.fromkeys(sorted(files, key=lambda path: (name(path), number(path) or 0)))
    for folder, of in sorted({(path.parent, name(path)) for path in found}):
        check_whole(folder, of)
    return list(found)


def named(paths: Iterable[str]) -> bool:
    """Whether any of these paths leads to shards, and not to files of another kind."""
    files = (file for entry in paths for file in (os.listdir(entry) if os.path.isdir(entry) else glob.glob(entry)))
    return any(_NAME.fullmatch(os.path.basename(file)) for file in files)


def manifest_path(folder: Path, name: str) -> Path:
    """The list of the shards NAME_0, NAME_1, ... of a folder, written when all of them are there."""
    return folder / f"{name}.json"


def partial_folder(folder: Path, name: str) -> Path:
    """Where shards are written before they are moved to their places."""
    return folder / f".{name}.partial"


def read_manifest(folder: Path, name: str) -> dict[str, int] | None:
    """The sizes in bytes of the shards by their names; None where no file, or another kind of file, is."""
    try:
        values = json.loads(manifest_path(folder, name).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    sizes = values.get("shards") if isinstance(values, dict) else None
    return sizes if isinstance(sizes, dict) and all(isinstance(size, int) for size in sizes.values()) else None


def check_whole(folder: Path, name: str) -> None:
    """UserError unless all shards are there that were written under a name, as far as it is known which these are."""
    manifest = read_manifest(folder, name)
    if manifest is None:
        if partial_folder(folder, name).is_dir():
            raise UserError(
                f"{folder}: encode.py was interrupted while it wrote the shards {name}_*.tfrecords; run it again"
            )
        return
    for shard, size in manifest.items():
        path = folder / shard
        others = (path.with_name(f"{shard}.gz"), path.with_name(shard.removesuffix(".gz")))
        if path.is_file():
            if path.stat().st_size != size:
                raise UserError(
                    f"{path} has {path.stat().st_size} bytes, but {size} by {name}.json; copy or make the shard again"
                )
        elif not any(other.is_file() for other in others):
            raise UserError(
                f"{path} is missing, one of {len(manifest)} shards by {name}.json; copy or make it again, or delete "
                f"{manifest_path(folder, name)} if the others are to be used without it"
            )


def _expand(entry: str) -> list[str]:
    folder, last = os.path.split(entry)
    if os.path.isdir(entry):
        folder, last = entry, ""
        names = [name for name in os.listdir(entry) if _NAME.fullmatch(name)]
        records = [name for name in names if not name.endswith(token_arrays.SUFFIXES)]
        files = [os.path.join(entry, name) for name in records or names]  # arrays beside records may be anything
    elif os.path.isfile(entry):
        files = [entry]
    else:
        files = [file for file in glob.glob(entry) if os.path.isfile(file) and _NAME.fullmatch(os.path.basename(file))]
    if not files:
        there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        near = difflib.get_close_matches(last, there, n=1)
        advice = f"did you mean {os.path.join(folder, near[0])}?" if near else f"found {listed(there)}"
        missing = (
            "no shards (NAME_0.tfrecords, .npy, .npz) in this folder"
            if not last
            else "no such shard, folder or pattern"
        )
        raise UserError(f"{entry}: {missing}; {advice}")
    return files


def name(path: Path) -> str:
    """NAME of NAME_3.tfrecords."""
    match = _NAME.fullmatch(path.name)
    return match["name"] if match else path.name


def number(path: Path) -> int | None:
    """3 of NAME_3.tfrecords."""
    match = _NAME.fullmatch(path.name)
    return int(match["number"]) if match and match["number"] else None


def is_for_evaluation(path: Path) -> bool:
    """Whether the name says so."""
    return bool(_EVALUATION_NAME.search(path.name))


def held_out(files: Sequence[Path], rule: Sequence[str] | Sequence[int] | str | float | None) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all documents. UserError where no shard is left on either side.

    rule: what these patterns name, or those of `files` with these numbers, or this fraction; None takes the shards
    whose names say so, and a small fraction where that is none or all of them.
    """
    if isinstance(rule, float):
        return rule
    if rule is None:
        chosen = [path for path in files if is_for_evaluation(path)]
        if not chosen or len(chosen) == len(files):
            return EVALUATION_FRACTION
    else:
        named = [rule] if isinstance(rule, str) else rule
        patterns = [each for each in named if isinstance(each, str)]
        chosen = find(patterns) if patterns else [path for path in files if number(path) in named]
    if not chosen or not set(files) - set(chosen):
        verb = "train" if chosen else "evaluate"
        raise UserError(
            f"eval_split: no shard is left to {verb} on, of {listed(files)}; set eval_split to numbers or "
            "patterns of some of them, or to a fraction of the documents, such as 0.05"
        )
    return chosen


def listed(names: Iterable[str | Path]) -> str:
    """Some names for an error."""
    shown = sorted(os.path.basename(each) for each in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "nothing"


def open_all(paths: Sequence[Path], *, ends: Ends, cache: Path) -> dict[Path, Shard]:
    """Opens shards, which stay open, each with its index.

    ends: what divides arrays into documents.
    """
    open_files.allow(2 * len(paths) + 256)
    return {
        path: token_arrays.open_array(path, ends, cache=cache)
        if path.suffix in token_arrays.SUFFIXES
        else open_shard(path, cache=cache)
        for path in paths
    }


class Split(NamedTuple):
    """Documents to train on, for each group of shards, and to evaluate on; what was left out, if anything."""

    training: list[Documents]
    evaluation: Documents
    left_out: int

    def notes(self, windows_per_epoch: int) -> list[str]:
        """Lines for the console: how much there is, in all training documents together and to evaluate on."""

        def count(parts: Sequence[Documents]) -> str:
            tokens = sum(part.total_tokens for part in parts)
            return f"{_numbered(sum(map(len, parts)), 'document')} ({_numbered(tokens, 'token')})"

        line = f"data: {count(self.training)} for training, {_numbered(windows_per_epoch, 'window')} an epoch; "
        notes = [line + f"{count([self.evaluation])} for evaluation"]
        if self.left_out:
            left_out = _numbered(self.left_out, "training document")
            notes.append(f"{left_out} left out, because the same text is evaluated on")
        return notes


def _numbered(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def by_shard(groups: Sequence[Sequence[Shard]], held_out: Sequence[Shard]) -> Split:
    """Evaluates on whole shards. Documents of the others with the same text as one of theirs are left out."""
    known = np.unique(np.concatenate([shard.fingerprints for shard in held_out]))

    def is_new(fingerprints: np.ndarray) -> np.ndarray:
        nearest = np.searchsorted(known[:-1], fingerprints)
        return known[nearest] != fingerprints if len(known) else np.ones(len(fingerprints), bool)

    for group in groups:
        if all(shard in held_out for shard in group):
            raise UserError(
                f"eval_split: {listed(shard.path for shard in group)} would only be evaluated on, and nothing of the "
                "group is left to train on; set eval_split to other shards, or to a fraction: 0.05"
            )
    training = [_select([shard for shard in group if shard not in held_out], is_new) for group in groups]
    everything = sum(len(shard) for group in groups for shard in group if shard not in held_out)
    return _checked(Split(training, Documents(held_out), everything - sum(map(len, training))))


def by_fraction(groups: Sequence[Sequence[Shard]], fraction: float) -> Split:
    """Evaluates on a fraction of the documents, chosen by a hash of their text: equal ones are on the same side.

    A document stays on its side when others are added. There is always one to evaluate on, unless all are alike.
    """
    shards = list(dict.fromkeys(shard for group in groups for shard in group))
    smallest = min((int(_hashes(part).min()) for shard in shards for part in _parts(shard)), default=0)
    limit = max(int(fraction * 2**64), smallest + 1)
    training = [_select(group, lambda fingerprints: _hashes(fingerprints) >= limit) for group in groups]
    evaluation = _select(shards, lambda fingerprints: _hashes(fingerprints) < limit)
    return _checked(Split(training, evaluation, 0))


def _hashes(fingerprints: np.ndarray) -> np.ndarray:
    return splitmix64(fingerprints.astype(np.uint64))


def _parts(shard: Shard) -> list[np.ndarray]:
    """The fingerprints, a part at a time: what is computed of them takes little memory."""
    fingerprints = shard.fingerprints
    return [fingerprints[start : start + _PART] for start in range(0, len(fingerprints), _PART)]


def _select(shards: Sequence[Shard], wanted: Callable[[np.ndarray], np.ndarray]) -> Documents:
    """The documents whose fingerprints are wanted."""
    selected: list[np.ndarray | None] = []
    for shard in shards:
        found = [
            wanted(part).nonzero()[0].astype(np.uint32) + np.uint32(i * _PART) for i, part in enumerate(_parts(shard))
        ]
        selected.append(None if sum(map(len, found)) == len(shard) else np.concatenate(found))
    return Documents(shards, selected)


def _checked(split: Split) -> Split:
    for verb, parts in (("train", split.training), ("evaluate", [split.evaluation])):
        for documents in parts:
            if not documents.total_tokens:
                raise UserError(
                    f"no text is left to {verb} on, of those in {listed(each.path for each in documents.shards)}, "
                    "which may be a single document, or all alike; add documents, cut them into shorter ones, or set "
                    "eval_split to other shards"
                )
    return split
