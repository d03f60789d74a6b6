"""Finds the shards that a path or pattern names, and checks that none of a set is missing."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from estimator import format_version, json_text, storage
from estimator.errors import UserError
from estimator.json_text import is_whole
from estimator.shards import numpy_shards, token_bins
from estimator.shards.npy_files import Ends
from estimator.shards.shard import Shard
from estimator.shards.tfrecord import open_shard
from estimator.storage import fd_limit

FRACTION_OF = "fraction_of"  # in a manifest: what a fraction to evaluate on is of; documents, where it is missing
_NAME = re.compile(r"(?P<name>.*?)(_(?P<number>\d+))?\.(tfrecords?(\.gz)?|npy|npz|bin)")
_INDEX = re.compile(r"(\.\d+)?\.index$")  # of TFRecord files, and of arrays by their end-of-text


def find(paths: Iterable[str]) -> list[Path]:
    """The shards that folders, files and patterns name, in the order of their numbers; UserError where none is."""
    found: dict[Path, None] = {}
    for entry in paths:
        if "://" in entry:
            raise UserError(
                f"{entry}: shards are read from local disks; copy them there, or mount the bucket as a folder"
            )
        files = _expand(entry)
        # A shard that exists both packed and unpacked is one shard.
        files = [
            Path(os.path.abspath(file)) for file in files if file.removesuffix(".gz") not in files or file[-3:] != ".gz"
        ]
        found |= dict.fromkeys(sorted(files, key=lambda path: (name(path), number(path) or 0)))
    for folder, of in sorted({(path.parent, name(path)) for path in found}):
        check_whole(folder, of)
    return list(found)


def named(paths: Iterable[str]) -> bool:
    """Whether any of these paths leads to shards, and not to files of another kind."""
    files = (file for entry in paths for file in (os.listdir(entry) if os.path.isdir(entry) else storage.glob(entry)))
    # A .bin may be anything where chats are looked for.
    return any(_NAME.fullmatch(os.path.basename(file)) and not file.endswith(token_bins.SUFFIX) for file in files)


def is_shard(path: str) -> bool:
    """Whether a file has the name of a shard."""
    return bool(_NAME.fullmatch(os.path.basename(path)))


def manifest_path(folder: Path, name: str) -> Path:
    """The list of the shards NAME_0, NAME_1, ... of a folder, written when all of them exist."""
    return folder / f"{name}.json"


def partial_folder(folder: Path, name: str) -> Path:
    """Where shards are written before they are moved to their places."""
    return folder / f".{name}.partial"


def read_manifest(folder: Path, name: str) -> dict[str, int] | None:
    """The sizes in bytes of the shards by their names; None where no file, or another kind of file, is."""
    values = _said_by_manifest(folder, name)
    sizes = values.get("shards")
    if isinstance(sizes, dict) or (sizes and isinstance(values.get(format_version.KEY), int)):
        format_version.check(values, manifest_path(folder, name))
    return sizes if isinstance(sizes, dict) and all(isinstance(size, int) for size in sizes.values()) else None


def _said_by_manifest(folder: Path, name: str) -> dict[str, Any]:
    """All that the list of the shards says; empty where no file, or another kind of file, is."""
    try:
        values = json_text.loads(manifest_path(folder, name).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def described_by(chosen: Collection[str], there: Collection[str]) -> set[str]:
    """The other files of a folder that say what the chosen ones are: indices, and the lists of sets chosen as a whole.

    chosen, there: paths within the folder, of some files and of all. The list of a set of which some shards stay behind
    would call these missing.
    """
    tokens = [Path(path) for path in chosen if path.endswith(token_bins.SUFFIX)]
    found = {str(other) for path in tokens for other in token_bins.described_by(path)}
    found |= {path for path in there if _INDEX.sub("", path) in chosen}
    lists = {str(manifest_path(Path(path).parent, name(Path(path)))) for path in chosen if is_shard(path)}
    left = {path for path in there if path not in chosen and is_shard(path)}
    lists -= {str(manifest_path(Path(path).parent, name(Path(path)))) for path in left}
    return (found | lists) & set(there)


def is_split_by_tokens(paths: Iterable[Path]) -> bool:
    """Whether the manifests of all these shards say that a fraction to evaluate on is one of tokens."""
    places = {(path.parent, name(path)) for path in paths}
    return all(_said_by_manifest(folder, of).get(FRACTION_OF) == "tokens" for folder, of in places)


def check_whole(folder: Path, name: str) -> None:
    """Raises UserError if shards that were written under a name are missing, as far as their number is known, or if
    their list has changed."""
    manifest = read_manifest(folder, name)
    if manifest is None:
        if partial_folder(folder, name).is_dir():
            raise UserError(
                f"{folder}: encode.py was interrupted while it wrote the shards {name}_*.tfrecords; run it again"
            )
        return
    manifest_file = manifest_path(folder, name)
    if not is_whole(json_text.loads(manifest_file.read_bytes())):
        raise UserError(
            f"{manifest_file} is damaged: its checksum does not match; restore it from a copy, or move it elsewhere, "
            "if all of the shards are there"
        )
    for shard, size in manifest.items():
        path = folder / shard
        others = (path.with_name(f"{shard}.gz"), path.with_name(shard.removesuffix(".gz")))
        if path.is_file():
            if path.stat().st_size != size:
                raise UserError(
                    f"{path} has {path.stat().st_size} bytes, but {size} by {manifest_file}; copy or make the shard "
                    "again, or the list if that is damaged"
                )
        elif not any(other.is_file() for other in others):
            raise UserError(
                f"{path} is missing, one of {len(manifest)} shards by {manifest_file}; copy or make it again; to use "
                "the others without it, move that list elsewhere"
            )


def _expand(entry: str) -> list[str]:
    folder, last = os.path.split(entry)
    if os.path.isdir(entry):
        folder, last = entry, ""
        names = [name for name in os.listdir(entry) if _NAME.fullmatch(name)]
        records = [name for name in names if not name.endswith(numpy_shards.SUFFIXES)]
        files = [os.path.join(entry, name) for name in records or names]  # arrays next to records may be anything
    elif os.path.isfile(entry):
        files = [entry]
    else:
        files = [
            file for file in storage.glob(entry) if os.path.isfile(file) and _NAME.fullmatch(os.path.basename(file))
        ]
    if not files:
        there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        near = difflib.get_close_matches(last, there, n=1, cutoff=0.7)
        advice = f"did you mean {os.path.join(folder, near[0])}?" if near else f"found {listed(there)}"
        if not there:
            advice = "it is empty" if not last else "check the spelling of the path"
        missing = (
            "no shards (NAME_0.tfrecords, .npy, .npz, .bin) in this folder"
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


def listed(names: Iterable[str | Path]) -> str:
    """Some names for an error."""
    shown = sorted(os.path.basename(each) for each in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "nothing"


def open_all(paths: Sequence[Path], *, ends: Ends, cache: Path) -> dict[Path, Shard]:
    """Opens shards, which stay open, each with its index.

    ends: what divides arrays into documents.
    """
    fd_limit.allow(2 * len(paths) + 256)
    opened: dict[Path, Shard] = {
        path: numpy_shards.open_array(path, ends, cache=cache)
        if path.suffix in numpy_shards.SUFFIXES
        else open_shard(path, cache=cache)
        for path in paths
    }
    # A .npy has no place for the digest of its vocabulary, and the index of another shard may be lost.
    said = {place: _said_by_manifest(*place) for place in {(path.parent, name(path)) for path in paths}}
    for path, shard in opened.items():
        values = said[path.parent, name(path)]
        listed, digest = values.get("shards"), values.get("tokenizer")
        if shard.tokenizer is None and isinstance(listed, dict) and path.name in listed and isinstance(digest, str):
            shard.tokenizer = digest
    return opened
