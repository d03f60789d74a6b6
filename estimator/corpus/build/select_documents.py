"""Which documents of all runs stay, which split each is of, and where one shard ends and the next begins.

Texts are compared by 128 bits of their sha256, in ranges of the digest: a byte is in memory for each document, and no
more. The split is a function of some of these bits: a document stays on its side when others are added.
"""

import bisect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from estimator import json_text, storage
from estimator.corpus import minhash
from estimator.corpus.build.plan import SPLITS, BuildPlan
from estimator.corpus.build.sorted_runs import KEYED, TEXTS, SortedRun
from estimator.json_text import is_whole, sealed

RANGE_DOCUMENTS = 1 << 21  # compared at a time
EXACT, NEAR = "exact duplicates", "near duplicates"


class Output(NamedTuple):
    """The shards of a corpus and a split. borders: the key of the first document of each shard but the first."""

    corpus: int
    split: int
    documents: int
    tokens: int
    bytes: int
    borders: tuple[int, ...]

    @property
    def shards(self) -> int:
        return len(self.borders) + 1 if self.documents else 0


class Choice(NamedTuple):
    """The selection. dropped: by corpus, the number of documents by reason. starts: of each run in `marks`."""

    folder: Path
    outputs: tuple[Output, ...]
    dropped: tuple[dict[str, int], ...]
    starts: tuple[int, ...]

    def marks(self, run: int, start: int, stop: int) -> np.ndarray:
        """uint8: of documents `start` to `stop` of a run, in the order of their keys, 0 or 1 + the split."""
        with open(self.folder / "marks", "rb") as file:
            file.seek(self.starts[run] + start)
            return np.frombuffer(file.read(stop - start), np.uint8)


def find_choice(folder: Path) -> Choice | None:
    """The choice made before."""
    try:
        facts = json_text.loads((folder / "choice.json").read_bytes())
        if not is_whole(facts) or facts["marks"] != google_crc32c.value((folder / "marks").read_bytes()):
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    outputs = tuple(Output(*values[:-1], borders=tuple(values[-1])) for values in facts["outputs"])
    return Choice(folder, outputs, tuple(facts["dropped"]), tuple(facts["starts"]))


def choose(plan: BuildPlan, runs: Sequence[SortedRun], *, folder: Path) -> Choice:
    """Chooses, and keeps the choice in the folder."""
    options = plan.options
    starts = np.cumsum([0, *(run.documents for run in runs)])
    marks = np.zeros(starts[-1], np.uint8)
    dropped: list[dict[str, int]] = [{} for _ in plan.corpora]

    def drop(reason: str, run: int, count: int) -> None:
        if count:
            counts = dropped[plan.tasks[run].corpus]
            counts[reason] = counts.get(reason, 0) + count

    for texts, owners in _ranges(runs):
        places = starts[owners] + texts["place"]
        marks[places] = 1 + _splits(plan, texts["second"], owners)
        if options.drop_exact_duplicates:
            again = _seen_before(texts["first"], texts["second"])
            marks[places[again]] = 0
            for run, count in zip(*np.unique(owners[again], return_counts=True), strict=True):
                drop(EXACT, int(run), int(count))
    if options.drop_near_duplicates:
        _drop_near(runs, marks, starts, drop)
    outputs = tuple(_outputs(plan, runs, marks, starts))
    storage.write_bytes_atomic(str(folder / "marks"), marks.tobytes())
    facts = {"outputs": outputs, "dropped": dropped, "starts": starts.tolist()}
    facts["marks"] = google_crc32c.value(marks.tobytes())
    storage.write_bytes_atomic(str(folder / "choice.json"), json.dumps(sealed(facts)).encode())
    return Choice(folder, outputs, tuple(dropped), tuple(starts.tolist()))


def _ranges(runs: Sequence[SortedRun]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """TEXTS of all runs, a range of their digests at a time, in the order of these, and the number of the run of each.

    Equal ones are in the order of the input."""
    total = sum(run.documents for run in runs)
    parts = max(1, -(-total // RANGE_DOCUMENTS))
    columns = [run.texts() for run in runs]
    for part in range(parts):
        slices = [_between(column, "first", part * 2**64 // parts, (part + 1) * 2**64 // parts) for column in columns]
        texts = np.concatenate([np.empty(0, TEXTS), *slices])
        owners = np.repeat(np.arange(len(runs)), [len(each) for each in slices])
        order = np.argsort(texts["first"], kind="stable")
        yield texts[order], owners[order]


def _between(column: np.ndarray, field: str, low: int, high: int) -> np.ndarray:
    """The rows, which are sorted by the field, where it is at least `low` and below `high`."""
    start, stop = (
        bisect.bisect_left(range(len(column)), limit, key=lambda i: int(column[i][field])) for limit in (low, high)
    )
    return column[start:stop]


def _splits(plan: BuildPlan, second: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """uint8: the number of the split of each text; from the two ends, so that no fraction moves the other's texts."""
    valid, test = (int(fraction * 2**64) for fraction in plan.options.split)
    by_hash = np.zeros(len(second), np.uint8)
    by_hash[second < np.uint64(valid)] = SPLITS.index("valid")
    if test:
        by_hash[second >= np.uint64(2**64 - test)] = SPLITS.index("test")
    named = np.array([-1 if task.split is None else task.split for task in plan.tasks])[owners]
    return np.where(named >= 0, named, by_hash).astype(np.uint8)


def _seen_before(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The indices of the texts that are equal to an earlier one. first: sorted."""
    same = first[1:] == first[:-1]
    candidates = np.flatnonzero(np.append(same, False) | np.append(False, same))
    order = candidates[np.lexsort((second[candidates], first[candidates]))]  # stable
    equal = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
    return order[1:][equal]


def _drop_near(
    runs: Sequence[SortedRun], marks: np.ndarray, starts: np.ndarray, drop: Callable[[str, int, int], None]
) -> None:
    """Of those that are left, in the order of the input: the first of alike ones stays."""
    rows = []
    for run, start in zip(runs, starts, strict=False):
        there = np.flatnonzero(marks[start : start + run.documents])
        rows.append(there[np.argsort(run.keyed()["position"][there])])
    alike = minhash.duplicates([run.signatures()[there] for run, there in zip(runs, rows, strict=True)])
    done = 0
    for number, there in enumerate(rows):
        again = there[alike[done : done + len(there)]]
        marks[starts[number] + again] = 0
        drop(NEAR, number, len(again))
        done += len(there)


def _outputs(plan: BuildPlan, runs: Sequence[SortedRun], marks: np.ndarray, starts: np.ndarray) -> Iterator[Output]:
    """Counts, and borders of shards, of each corpus and split."""
    for corpus in range(len(plan.corpora)):
        mine = [number for number, task in enumerate(plan.tasks) if task.corpus == corpus]
        tallies = [_Tally(plan.options.shard_tokens) for _ in SPLITS]
        for keyed, marked in _by_key([(runs[i], marks[starts[i] : starts[i + 1]]) for i in mine], plan.options.shuffle):
            for split, tally in enumerate(tallies):
                tally.add(keyed[marked == 1 + split])
        for split, tally in enumerate(tallies):
            yield Output(corpus, split, tally.documents, tally.tokens, tally.bytes, tuple(tally.borders))


def _by_key(runs: Sequence[tuple[SortedRun, np.ndarray]], shuffle: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """KEYED and marks of all runs in the order of the keys, some at a time."""
    if not shuffle:
        yield from ((run.keyed(), marks) for run, marks in runs)
        return
    parts = max(1, -(-sum(run.documents for run, _ in runs) // RANGE_DOCUMENTS))
    columns = [(run.keyed(), marks) for run, marks in runs]
    done = [0] * len(runs)
    for part in range(parts):
        slices = []
        for i, (keyed, marks) in enumerate(columns):
            found = _between(keyed, "key", part * 2**64 // parts, (part + 1) * 2**64 // parts)
            slices.append((found, marks[done[i] : done[i] + len(found)]))
            done[i] += len(found)
        keyed = np.concatenate([np.empty(0, KEYED), *(each for each, _ in slices)])
        order = np.argsort(keyed["key"], kind="stable")
        yield keyed[order], np.concatenate([np.empty(0, np.uint8), *(each for _, each in slices)])[order]


class _Tally:
    """Counts documents in the order of their keys, and finds where shards end."""

    def __init__(self, shard_tokens: int):
        self.documents = self.tokens = self.bytes = 0
        self.borders: list[int] = []
        self._shard_tokens = self._room = shard_tokens
        self._last = -1  # key

    def add(self, keyed: np.ndarray) -> None:
        """The next ones, whose keys are sorted."""
        if not len(keyed):
            return
        keys, totals = keyed["key"].copy(), keyed["count"].cumsum(dtype=np.int64)
        at = done = 0
        while at < len(keys):
            if self._room <= 0:
                # Documents of one key, which are equal ones, stay together: a border is a key.
                at += int(np.searchsorted(keys[at:], np.uint64(self._last), side="right"))
                done = int(totals[at - 1]) if at else 0
                if at == len(keys):
                    break
                self.borders.append(int(keys[at]))
                self._room = self._shard_tokens
            last = int(np.searchsorted(totals, done + self._room))
            if last == len(keys):
                self._room -= int(totals[-1]) - done
                break
            at, done, self._room = last + 1, int(totals[last]), 0
            self._last = int(keys[last])
        self._last = int(keys[-1])
        self.documents += len(keyed)
        self.tokens += int(totals[-1])
        self.bytes += int(keyed["bytes"].sum(dtype=np.int64))
