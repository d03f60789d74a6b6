"""Which shards there are, and which of their documents are trained on and which evaluated on: none is in both."""

import difflib
import glob
import os
import re
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.errors import UserError
from runtime.tfrecord import Shard, open_shard
from runtime.windows import Documents, splitmix64

_NAME = re.compile(r"(?P<name>.*?)(_(?P<number>\d+))?\.tfrecords?(\.gz)?")
_EVALUATION_NAME = re.compile(r"(?<![a-z])(valid|eval)", re.IGNORECASE)


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
    return list(found)


def _expand(entry: str) -> list[str]:
    folder, last = os.path.split(entry)
    if os.path.isdir(entry):
        folder, last = entry, ""
        files = [os.path.join(entry, name) for name in os.listdir(entry) if _NAME.fullmatch(name)]
    elif os.path.isfile(entry):
        files = [entry]
    else:
        files = [file for file in glob.glob(entry) if os.path.isfile(file) and _NAME.fullmatch(os.path.basename(file))]
    if not files:
        there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        near = difflib.get_close_matches(last, there, n=1)
        advice = f"did you mean {os.path.join(folder, near[0])}?" if near else f"found {listed(there)}"
        missing = "no shards (NAME_0.tfrecords, ...) in this folder" if not last else "no such shard, folder or pattern"
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


def listed(names: Iterable[str | Path]) -> str:
    """Some names for an error."""
    shown = sorted(os.path.basename(each) for each in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "nothing"


def open_all(paths: Sequence[Path], *, cache: Path) -> dict[Path, Shard]:
    """Opens shards, which stay open, each with its index: systems allow 1,024 open files unless asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * len(paths) + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    return {path: open_shard(path, cache=cache) for path in paths}


def check_vocabulary(shards: Sequence[Shard], *, n_vocab: int) -> str | None:
    """The digest of the vocabulary, if the shards know it; UserError where they differ, or have ids from n_vocab on."""
    first = next((shard for shard in shards if shard.tokenizer), None)
    for shard in shards:
        if first and shard.tokenizer not in (None, first.tokenizer):
            raise UserError(f"{shard.path} and {first.path} were made with different vocabularies; use one for both")
        if shard.max_id >= n_vocab:
            raise UserError(
                f"n_vocab is {n_vocab}, but {shard.path} has the token id {shard.max_id}; set n_vocab to the size of "
                "the vocabulary that it was made with"
            )
    return first.tokenizer if first else None


class Split(NamedTuple):
    """Documents to train on, for each group of shards, and to evaluate on; what was left out, if anything."""

    training: list[Documents]
    evaluation: Documents
    left_out: int


def by_shard(groups: Sequence[Sequence[Shard]], held_out: Sequence[Shard]) -> Split:
    """Evaluates on whole shards. Documents of the others with the same text as one of theirs are left out."""
    known = np.unique(np.concatenate([shard.fingerprints for shard in held_out]))
    training, left_out = [], 0
    for group in groups:
        shards = [shard for shard in group if shard not in held_out]
        kept = [np.isin(shard.fingerprints, known, invert=True) for shard in shards]
        left_out += sum(int(np.count_nonzero(~keep)) for keep in kept)
        training.append(_select(shards, kept))
    return _checked(Split(training, Documents(held_out), left_out))


def by_fraction(groups: Sequence[Sequence[Shard]], fraction: float) -> Split:
    """Evaluates on a fraction of the documents, chosen by a hash of their text: equal ones are on the same side.

    A document stays on its side when others are added. There is always one to evaluate on, unless all are alike.
    """
    shards = list(dict.fromkeys(shard for group in groups for shard in group))
    hashes = {shard: splitmix64(shard.fingerprints.astype(np.uint64)) for shard in shards}
    smallest = min((int(of.min()) for of in hashes.values() if len(of)), default=0)
    limit = max(int(fraction * 2**64), smallest + 1)
    training = [_select(group, [hashes[shard] >= limit for shard in group]) for group in groups]
    evaluation = _select(shards, [hashes[shard] < limit for shard in shards])
    return _checked(Split(training, evaluation, 0))


def _checked(split: Split) -> Split:
    for verb, parts in (("train", split.training), ("evaluate", [split.evaluation])):
        for documents in parts:
            if not len(documents):
                raise UserError(
                    f"no document is left to {verb} on, of those in {listed(each.path for each in documents.shards)}, "
                    "which may be a single one, or all alike; add documents, or cut them into shorter ones, or set "
                    "eval_split to other shards"
                )
    return split


def _select(shards: Sequence[Shard], kept: Sequence[np.ndarray]) -> Documents:
    return Documents(shards, [None if keep.all() else keep.nonzero()[0].astype(np.uint32) for keep in kept])
