"""The chosen documents of all runs as shards: each shard takes its range of keys from every run, in large blocks.

Shards are written next to their final locations, in the hidden folders that `shards.partial_folder` names, and moved
together: a journal lists the moves, so that the next process can finish them. The lists of shards are moved last.
"""

import glob
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from estimator import json_text, storage
from estimator.corpus.build import marks
from estimator.corpus.build.marks import Sum
from estimator.corpus.build.plan import SPLITS, BuildPlan
from estimator.corpus.build.select_documents import Choice, Output
from estimator.corpus.build.sorted_runs import SortedRun
from estimator.errors import UserError
from estimator.json_text import is_whole, sealed
from estimator.shards import discovery as naming
from estimator.shards import numpy_shards
from estimator.shards.encode_records import ROW, Records, gathered
from estimator.shards.framing import FOOTER, read_at
from estimator.shards.shard import RecordSpan, decode
from estimator.shards.tfrecord import ShardWriter
from estimator.tokenization.tokenizer import Tokenizer

SUFFIXES = {"tfrecord": ".tfrecords", "npy": ".npy", "npz": ".npz"}  # by format
TOGETHER = 256  # records copied or decoded together; they fit into the processor's cache
MARKS = "shards"  # folder below the work folder, of the marks of finished shards
BLOCK_BYTES = 1 << 24  # of records read at a time


class ShardLocation(NamedTuple):
    """Where the shards of a corpus and a split belong: folder / NAME_0.tfrecords and so on."""

    folder: Path
    name: str

    @property
    def partial(self) -> Path:
        """Where they are until all exist."""
        return naming.partial_folder(self.folder, self.name)

    @property
    def manifest(self) -> Path:
        return naming.manifest_path(self.folder, self.name)

    def shards(self) -> list[Path]:
        """Those that exist, in order."""
        files = self.folder.iterdir() if self.folder.is_dir() else []
        found = [(number, path) for path in files if (number := naming.number(path)) is not None]
        return [path for _, path in sorted(found) if naming.name(path) == self.name]


def place(out: Path, name: str, split: int) -> ShardLocation:
    """Training finds NAME_* and, to evaluate on, NAME_valid_*; test data is elsewhere, where it does not look."""
    if SPLITS[split] == "test":
        return ShardLocation(out / "test", f"{name}_test")
    return ShardLocation(out, f"{name}_valid" if SPLITS[split] == "valid" else name)


def file_name(plan: BuildPlan, at: ShardLocation, number: int) -> str:
    return f"{at.name}_{number}{SUFFIXES[plan.options.format]}{'.gz' if plan.options.compress else ''}"


def write_shard(
    plan: BuildPlan,
    choice: Choice,
    runs: Sequence[SortedRun],
    output: Output,
    number: int,
    *,
    path: Path,
    mark: Path,
    tokenizer: Tokenizer,
) -> None:
    """One shard of an output, its index, and at last the mark that both are whole."""
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
    sums = {}
    for file in sorted(folder.iterdir(), reverse=True):  # NAME_0.npy.50256.index before NAME_0.npy
        target = path.with_name(file.name)
        sums[os.path.relpath(target, mark.parent)] = marks.sum_of(file)
        os.replace(file, target)
    folder.rmdir()
    mark.parent.mkdir(exist_ok=True)
    marks.write_mark(str(mark), {}, sums)


def _write_array(path: Path, merged: Iterator[Records], plan: BuildPlan, tokenizer: Tokenizer) -> None:
    """An array of ids, in which end-of-text stands after each document."""
    assert tokenizer.end_of_text is not None
    kind = numpy_shards.NpyWriter if plan.options.format == "npy" else numpy_shards.NpzWriter
    facts = {"end_of_text": tokenizer.end_of_text, "n_vocab": tokenizer.n_vocab, "tokenizer": plan.tokenizer}
    with kind(path, **facts) as writer:
        for records in merged:
            data = records.data
            stops = (records.rows["size"].cumsum(dtype=np.int64) - FOOTER.size).tolist()
            sizes, counts = records.rows["payload"].tolist(), records.rows["count"].tolist()
            spans = [
                RecordSpan(data[stop - size : stop], 0, count)
                for stop, size, count in zip(stops, sizes, counts, strict=True)
            ]
            for tokens in decode(spans):
                writer.write(b"", tokens)


def _merged(
    runs: Sequence[tuple[int, SortedRun]], choice: Choice, output: Output, *, low: int, high: int
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


def _gathered(runs: Sequence[SortedRun], keyed: np.ndarray, owner: np.ndarray) -> Iterator[Records]:
    """These records, each run read sequentially; TOGETHER at a time."""
    starts = keyed["offset"].astype(np.int64)
    stops = starts + keyed["size"]
    numbers, part = np.unique(owner, return_inverse=True)
    parts = []
    for number in numbers.tolist():
        mine = owner == number
        low, high = int(starts[mine].min()), int(stops[mine].max())
        with open(runs[number].records_path, "rb", buffering=0) as file:
            part_bytes = read_at(file.fileno(), high - low, low)
        if len(part_bytes) < high - low:
            raise UserError(f"{runs[number].records_path} is cut off; move its folder elsewhere and try again")
        parts.append(memoryview(part_bytes))
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
    """Moves to make. fingerprint: of the plan. moves: (from, to), the lists of the shards last.

    sums: of each move; None in the journal of an earlier version.
    """

    fingerprint: str
    removed: list[str]
    moves: list[tuple[str, str]]
    sums: list[Sum] | None = None


def _journal_path(work: Path) -> Path:
    return work / "journal.json"


def read_list(at: ShardLocation) -> dict[str, Any] | None:
    """The contents of the list of shards, if it exists."""
    if naming.read_manifest(at.folder, at.name) is None:
        return None
    return json_text.loads(at.manifest.read_bytes())


def begin_move(
    plan: BuildPlan, work: Path, places: Sequence[ShardLocation], manifests: Sequence[dict[str, Any] | None]
) -> None:
    """Notes what belongs where, when all shards are written. manifests: of the places, None of one without shards."""
    moves: list[tuple[str, str]] = []
    lists: list[tuple[str, str]] = []
    for at, manifest in zip(places, manifests, strict=True):
        there = sorted(at.partial.iterdir()) if at.partial.is_dir() else []
        files = [path for path in there if path.is_file() and path.suffix != ".tmp" and path.name != at.manifest.name]
        moves += [(str(path), str(at.folder / path.name)) for path in files]
        if manifest is not None:
            temporary = at.partial / at.manifest.name
            storage.write_bytes_atomic(str(temporary), json.dumps(manifest, indent=1).encode())
            lists.append((str(temporary), str(at.manifest)))
    new = {target for _, target in moves}
    old = [path for at in places for shard in at.shards() for path in shard.parent.glob(glob.escape(shard.name) + "*")]
    # The lists first, because they tell readers that all shards exist.
    removed = [str(at.manifest) for at in places] + [str(path) for path in old if str(path) not in new]
    known = _sums(work)
    sums = [known.get(os.path.normpath(source)) or marks.sum_of(Path(source)) for source, _ in moves + lists]
    journal = Journal(plan.fingerprint, removed, moves + lists, sums)
    storage.write_bytes_atomic(str(_journal_path(work)), json.dumps(sealed(journal._asdict())).encode())


def _sums(work: Path) -> dict[str, Sum]:
    """Of the files of all shards, by their paths, as their marks say."""
    found = {}
    for mark in (work / MARKS).glob("*.json"):
        files = (marks.read_mark(mark) or {"files": {}})["files"]
        found |= {os.path.normpath(mark.parent / name): Sum(*values) for name, values in files.items()}
    return found


def finish_move(plan: BuildPlan, work: Path, *, verify: bool = True) -> bool:
    """Makes the moves that remain; returns whether such a journal existed and all of its files are whole.

    verify: reads all files, as a disk may have damaged them since the journal was written.
    """
    try:
        values = json_text.loads(_journal_path(work).read_bytes())
        if not is_whole(values):
            return False
        journal = Journal(**{name: values[name] for name in Journal._fields if name in values})
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return False
    if journal.fingerprint != plan.fingerprint:
        return False
    # Another run may have moved some; files at their final location must stay.
    begun = [target for source, target in journal.moves if not os.path.exists(source)]
    for (source, target), values in zip(journal.moves, journal.sums or [], strict=journal.sums is not None):
        if verify and not marks.has_sum(target if target in begun else source, Sum(*values)):
            _undo(journal, begun, work)
            return False
    for path in journal.removed:
        if path not in begun:
            Path(path).unlink(missing_ok=True)
    for source, target in journal.moves:
        if os.path.exists(source):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    return True


def _undo(journal: Journal, begun: Sequence[str], work: Path) -> None:
    """Moves files back, so that only those damaged on the disk in the meantime are written again."""
    for source, target in journal.moves:
        if target in begun and os.path.exists(target):
            Path(source).parent.mkdir(parents=True, exist_ok=True)
            os.replace(target, source)
    _journal_path(work).unlink()
