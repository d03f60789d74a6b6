"""The chosen documents of all runs as shards: each shard takes its range of keys from every run, in large blocks.

Shards are written beside their places, in the hidden folders that `shards.partial_folder` names, and moved there
together: a journal says what is moved, so that whoever comes next can finish it. The lists of them are moved last.
"""

import glob
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime import shards as naming
from runtime import storage, token_arrays
from runtime.record import FOOTER
from runtime.records import ROW, Records, gathered
from runtime.tfrecord import ShardWriter, Span, decode
from text.encoding_choice import Choice, Output
from text.encoding_plan import SPLITS, Plan
from text.encoding_runs import Run
from text.tokenizers import Tokenizer

SUFFIXES = {"tfrecord": ".tfrecords", "npy": ".npy", "npz": ".npz"}  # by format
TOGETHER = 256  # records copied, or decoded, at once: they stay in the processor's cache
BLOCK_BYTES = 1 << 24  # of records read at a time


class Place(NamedTuple):
    """Where the shards of a corpus and a split belong: folder / NAME_0.tfrecords and so on."""

    folder: Path
    name: str

    @property
    def partial(self) -> Path:
        """Where they are until all of them are there."""
        return naming.partial_folder(self.folder, self.name)

    @property
    def manifest(self) -> Path:
        return naming.manifest_path(self.folder, self.name)

    def shards(self) -> list[Path]:
        """Those that are there, in the order of their numbers."""
        files = self.folder.iterdir() if self.folder.is_dir() else []
        found = [(number, path) for path in files if (number := naming.number(path)) is not None]
        return [path for _, path in sorted(found) if naming.name(path) == self.name]


def place(out: Path, name: str, split: int) -> Place:
    """Training finds NAME_* and, to evaluate on, NAME_valid_*; what is tested on lies apart, where it does not look."""
    if SPLITS[split] == "test":
        return Place(out / "test", f"{name}_test")
    return Place(out, f"{name}_valid" if SPLITS[split] == "valid" else name)


def file_name(plan: Plan, at: Place, number: int) -> str:
    return f"{at.name}_{number}{SUFFIXES[plan.options.format]}{'.gz' if plan.options.compress else ''}"


def write_shard(
    plan: Plan, choice: Choice, runs: Sequence[Run], output: Output, number: int, *, path: Path, tokenizer: Tokenizer
) -> None:
    """One shard of an output and its index, which appears before it."""
    low = output.borders[number - 1] if number else 0
    high = output.borders[number] if number < len(output.borders) else 1 << 64
    mine = [i for i, task in enumerate(plan.tasks) if task.corpus == output.corpus]
    folder = path.with_name(f"{path.name}.{os.getpid()}.making")
    folder.mkdir(exist_ok=True)
    made = folder / path.name
    merged = _merged([(i, runs[i]) for i in mine], choice, output, low=low, high=high)
    if plan.options.format == "tfrecord":
        with ShardWriter(made, tokenizer=plan.tokenizer) as writer:
            for records in merged:
                writer.write_records(records)
    else:
        _write_array(made, merged, plan, tokenizer)
    for file in sorted(folder.iterdir(), reverse=True):  # NAME_0.npy.50256.index before NAME_0.npy
        os.replace(file, path.with_name(file.name))
    folder.rmdir()


def _write_array(path: Path, merged: Iterator[Records], plan: Plan, tokenizer: Tokenizer) -> None:
    """An array of ids, in which end-of-text stands after each document."""
    assert tokenizer.end_of_text is not None
    kind = token_arrays.NpyWriter if plan.options.format == "npy" else token_arrays.NpzWriter
    facts = {"end_of_text": tokenizer.end_of_text, "n_vocab": tokenizer.n_vocab, "tokenizer": plan.tokenizer}
    with kind(path, **facts) as writer:
        for records in merged:
            data = records.data
            stops = (records.rows["size"].cumsum(dtype=np.int64) - FOOTER.size).tolist()
            sizes, counts = records.rows["payload"].tolist(), records.rows["count"].tolist()
            spans = [
                Span(data[stop - size : stop], 0, count) for stop, size, count in zip(stops, sizes, counts, strict=True)
            ]
            for tokens in decode(spans):
                writer.write(b"", tokens)


def _merged(
    runs: Sequence[tuple[int, Run]], choice: Choice, output: Output, *, low: int, high: int
) -> Iterator[Records]:
    """The records with keys from `low` to `high`, in their order, TOGETHER at a time."""
    found, owners = [], []
    for number, (task, run) in enumerate(runs):
        keyed = run.keyed()
        keys = keyed["key"]
        start, stop = (
            int(np.searchsorted(keys, np.uint64(key))) if key < 1 << 64 else len(keys) for key in (low, high)
        )
        chosen = choice.marks(task, start, stop) == 1 + output.split
        rows = keyed[start:stop][chosen]
        found.append(rows)
        owners.append(np.full(len(rows), number))
    if not found:
        return
    keyed, owner = np.concatenate(found), np.concatenate(owners)
    order = np.argsort(keyed["key"], kind="stable")
    keyed, owner = keyed[order], owner[order]
    block = keyed["size"].cumsum(dtype=np.int64) // BLOCK_BYTES
    borders = np.flatnonzero(np.diff(block, prepend=-1, append=block[-1:] + 1)) if len(block) else [0]
    for start, stop in itertools.pairwise(borders):
        yield from _gathered([run for _, run in runs], keyed[start:stop], owner[start:stop])


def _gathered(runs: Sequence[Run], keyed: np.ndarray, owner: np.ndarray) -> Iterator[Records]:
    """These records, of each run read at once from the first to the last; TOGETHER at a time."""
    starts = keyed["offset"].astype(np.int64)
    stops = starts + keyed["size"]
    numbers, part = np.unique(owner, return_inverse=True)
    parts = []
    for number in numbers.tolist():
        mine = owner == number
        low, high = int(starts[mine].min()), int(stops[mine].max())
        with open(runs[number].records_path, "rb", buffering=0) as file:
            parts.append(memoryview(os.pread(file.fileno(), high - low, low)))
        starts[mine] -= low
        stops[mine] -= low
    rows = np.empty(len(keyed), ROW)
    for name in ROW.names or ():
        rows[name] = keyed[name]
    for first in range(0, len(rows), TOGETHER):
        some = slice(first, first + TOGETHER)
        yield Records(gathered(parts, part[some], starts[some], stops[some]), rows[some])


# From the hidden folders to their places.


class Journal(NamedTuple):
    """What is to be moved. fingerprint: of the plan. moves: (from, to), the lists of the shards last."""

    fingerprint: str
    removed: list[str]
    moves: list[tuple[str, str]]


def _journal_path(work: Path) -> Path:
    return work / "journal.json"


def read_list(at: Place) -> dict[str, Any] | None:
    """What the list of the shards tells, if it is there."""
    if naming.read_manifest(at.folder, at.name) is None:
        return None
    return json.loads(at.manifest.read_bytes())


def begin_move(plan: Plan, work: Path, places: Sequence[Place], manifests: Sequence[dict[str, Any] | None]) -> None:
    """Notes what belongs where, when all shards are written. manifests: of the places, None of one without shards."""
    moves: list[tuple[str, str]] = []
    lists: list[tuple[str, str]] = []
    for at, manifest in zip(places, manifests, strict=True):
        there = sorted(at.partial.iterdir()) if at.partial.is_dir() else []
        files = [path for path in there if path.is_file() and path.suffix != ".tmp" and path != at.manifest]
        moves += [(str(path), str(at.folder / path.name)) for path in files]
        if manifest is not None:
            temporary = at.partial / at.manifest.name
            storage.write_bytes_atomic(str(temporary), json.dumps(manifest, indent=1).encode())
            lists.append((str(temporary), str(at.manifest)))
    new = {target for _, target in moves}
    old = [path for at in places for shard in at.shards() for path in shard.parent.glob(glob.escape(shard.name) + "*")]
    # The lists first, by which readers know that all is there.
    removed = [str(at.manifest) for at in places] + [str(path) for path in old if str(path) not in new]
    journal = Journal(plan.fingerprint, removed, moves + lists)
    storage.write_bytes_atomic(str(_journal_path(work)), json.dumps(journal._asdict()).encode())


def finish_move(plan: Plan, work: Path) -> bool:
    """Moves all to its place, or what is left to be moved; whether there was such a journal."""
    try:
        journal = Journal(**json.loads(_journal_path(work).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False
    if journal.fingerprint != plan.fingerprint:
        return False
    # Another run may have moved some; what is at its place then must stay.
    begun = [target for source, target in journal.moves if not os.path.exists(source)]
    for path in journal.removed:
        if path not in begun:
            Path(path).unlink(missing_ok=True)
    for source, target in journal.moves:
        if os.path.exists(source):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    return True
