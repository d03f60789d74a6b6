"""What encode.py is asked to do, and how the work is divided: a plan that does not depend on who carries it out.

Files are cut into tasks at places that follow from their sizes alone. The fingerprint of a plan covers all that the
shards depend on: by it an interrupted run knows whether it can go on.
"""

import json
import os
import platform
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from runtime import storage
from runtime.errors import UserError
from text import corpus, parquet, python_docs, readers
from text.readers import Part

SPLITS = ("train", "valid", "test")
# Names of folders that say which split their files are of.
FOLDERS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "eval": 1, "test": 2}
SHARD_TOKENS = 100_000_000
TASK_BYTES = 1 << 26
MAX_TASKS = 1 << 13  # of more text the tasks are larger: each shard reads a piece of every run
FILE_BYTES = 1 << 12
# Raised whenever the same text would give other shards.
VERSION = 2


class Corpus(NamedTuple):
    """Text that becomes the shards of one name. weight: its share in training, which is only noted."""

    name: str
    inputs: tuple[str, ...]
    weight: float = 1.0


class Options(NamedTuple):
    """How text becomes shards.

    kind: of the files, one of `kinds.KINDS`.
    text_key: of JSON lines and Parquet columns. fix_text, normalize: as for `cleaning.clean`.
    min_tokens: shorter documents are left out.
    drop_exact_duplicates, drop_near_duplicates: of equal texts, or nearly equal ones, all but the first.
    split: fractions of the documents (valid, test), chosen by a hash of their text.
    shuffle: documents in an order that a hash of seed and text gives, or as they are in the inputs.
    shard_tokens: a shard ends with the document that reaches this many. format: of the shards. compress: gzip.
    skip_faults: leave out what is no text, and count it, instead of stopping. task_bytes: input of a task.
    """

    kind: str = "plain"
    text_key: str = "text"
    fix_text: bool = False
    normalize: str | None = None
    min_tokens: int = 1
    drop_exact_duplicates: bool = True
    drop_near_duplicates: bool = False
    split: tuple[float, float] = (0.0, 0.0)
    shuffle: bool = True
    seed: int = 0
    shard_tokens: int = SHARD_TOKENS
    format: str = "tfrecord"
    compress: bool = False
    skip_faults: bool = False
    task_bytes: int = TASK_BYTES

    def check(self) -> None:
        """UserError for values that make no sense."""
        if self.shard_tokens < 1 or self.min_tokens < 1 or self.task_bytes < 1:
            raise UserError("--shard_tokens and --min_tokens must be 1 or more")
        if self.compress and self.format != "tfrecord":
            raise UserError("--gzip is for --format tfrecord; .npz is compressed by itself, .npy is read in place")
        if min(self.split) < 0 or sum(self.split) >= 1:
            raise UserError("--split: fractions must be 0 or more, and below 1 together: --split valid=0.01,test=0.01")


class Task(NamedTuple):
    """What is read in one go: parts of files that are of one corpus (its number) and of one split (None: by hash)."""

    corpus: int
    split: int | None
    parts: tuple[Part, ...]


class Plan(NamedTuple):
    """All that is to be done. bytes: of the input files, for each task. fingerprint: 32 hex digits."""

    corpora: tuple[Corpus, ...]
    options: Options
    encoder: str
    tokenizer: str
    fingerprint: str
    bytes: tuple[int, ...]
    files: int
    tasks: tuple[Task, ...]

    def write(self, folder: Path) -> None:
        """Keeps the plan in plan.jsonl, a line for the whole and one for each task, so that a worker reads only its."""
        head = {
            "corpora": self.corpora,
            "options": self.options._asdict(),
            "encoder": self.encoder,
            "tokenizer": self.tokenizer,
            "fingerprint": self.fingerprint,
            "bytes": self.bytes,
            "files": self.files,
        }
        with storage.new_file(str(folder / "plan.jsonl"), "w") as file:
            file.write(json.dumps(head) + "\n")
            file.writelines(json.dumps(task) + "\n" for task in self.tasks)


def read_plan(folder: Path, *, task: int | None = None) -> Plan | None:
    """The plan kept in a folder, with all its tasks or only one; None where there is none that can be read."""
    try:
        with open(folder / "plan.jsonl", encoding="utf-8") as file:
            head = json.loads(file.readline())
            tasks = [
                Task(corpus, split, tuple(Part(*part) for part in parts))
                for number, line in enumerate(file)
                if task in (None, number)
                for corpus, split, parts in [json.loads(line)]
            ]
    except (OSError, ValueError):
        return None
    corpora = tuple(Corpus(name, tuple(inputs), weight) for name, inputs, weight in head.pop("corpora"))
    options = head.pop("options")
    options["split"] = tuple(options["split"])
    head["bytes"] = tuple(head["bytes"])
    return Plan(corpora=corpora, options=Options(**options), tasks=tuple(tasks), **head)


def plan(corpora: Sequence[Corpus], options: Options, *, encoder: str, tokenizer: str) -> Plan:
    """Finds the files and divides them. tokenizer: the digest of the vocabulary in the folder `encoder`."""
    options.check()
    if len({each.name for each in corpora}) < len(corpora):
        raise UserError("two corpora have the same name; give each its own: --corpus NAME=PATH")
    for each in corpora:
        if not each.name or os.path.basename(each.name) != each.name:
            raise UserError(f'the name of the shards, "{each.name}", must be a plain file name')
    files: list[tuple[int, int | None, str, int]] = []
    facts: list[list[Any]] = []
    for number, each in enumerate(corpora):
        for path, split in _labelled(each.inputs):
            size, version = _facts(path)
            files.append((number, split, path, size))
            facts.append([number, split, corpus.real(path), size, version])
    task_bytes = max(options.task_bytes, sum(size for *_, size in files) // MAX_TASKS)
    tasks, sizes = _divide(files, task_bytes)
    names = [[each.name, each.weight] for each in corpora]
    kept = options._replace(skip_faults=False)._asdict()
    identity = [VERSION, names, kept, tokenizer, facts]
    fingerprint = sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return Plan(tuple(corpora), options, encoder, tokenizer, fingerprint, tuple(sizes), len(files), tuple(tasks))


def _labelled(inputs: Sequence[str]) -> list[tuple[str, int | None]]:
    """The files of a corpus, each once, with the number of the split that their folder says they are."""
    found: dict[str, tuple[str, int | None]] = {}
    for entry in inputs:
        labels = _has_splits(entry)
        for path in corpus.find([entry]):
            split = None
            if labels:
                first = path[len(entry.rstrip("/")) + 1 :].split("/")[0]
                split = FOLDERS.get(first)
            found.setdefault(corpus.real(path), (path, split))
    return list(found.values())


def _has_splits(entry: str) -> bool:
    """Whether an input is a folder with a sub-folder train and one of the others."""
    if not storage.is_folder(entry):
        return False
    there = {FOLDERS[name] for name in FOLDERS if storage.is_folder(storage.join(entry, name))}
    return 0 in there and len(there) > 1


def _facts(path: str) -> tuple[int, str | int]:
    """Size, and what changes with the contents."""
    if path == python_docs.NAME:
        return 0, platform.python_version()
    if storage.is_remote(path):
        found = storage.facts(path)
        return found.size, str(found)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _divide(files: Sequence[tuple[int, int | None, str, int]], task_bytes: int) -> tuple[list[Task], list[int]]:
    """The tasks, in the order of the files, and the bytes of each."""
    tasks: list[tuple[int, int | None, list[Part]]] = []
    sizes: list[int] = []
    kind: tuple[int, int | None] | None = None
    for number, split, path, size in files:
        for part, part_bytes in _parts(path, size, task_bytes):
            # A small file costs about as much as some kilobytes of a large one.
            part_bytes += FILE_BYTES
            if kind != (number, split) or sizes[-1] + part_bytes > task_bytes:
                kind = (number, split)
                tasks.append((number, split, []))
                sizes.append(0)
            tasks[-1][2].append(part)
            sizes[-1] += part_bytes
    return [Task(number, split, tuple(parts)) for number, split, parts in tasks], [
        size - FILE_BYTES * len(parts) for size, (_, _, parts) in zip(sizes, tasks, strict=True)
    ]


def _parts(path: str, size: int, task_bytes: int) -> list[tuple[Part, int]]:
    """A file, in parts if it is large and can be divided, with the bytes of each."""
    if path.endswith(".parquet") and size > task_bytes:
        return _parquet_parts(path, task_bytes)
    if size <= task_bytes or not readers.is_divisible(path):
        return [(Part(path), size)]
    starts = range(0, size, task_bytes)
    return [
        (Part(path, start, stop if stop < size else None, number), min(stop, size) - start)
        for number, (start, stop) in enumerate((start, start + task_bytes) for start in starts)
    ]


def _parquet_parts(path: str, task_bytes: int) -> list[tuple[Part, int]]:
    parts: list[tuple[Part, int]] = []
    first = total = 0
    sizes = parquet.group_sizes(path)
    for group, size in enumerate(sizes):
        total += size
        if total >= task_bytes or group == len(sizes) - 1:
            parts.append((Part(path, first, group + 1, len(parts)), total))
            first, total = group + 1, 0
    return parts if len(parts) > 1 else [(Part(path), sum(sizes))]
