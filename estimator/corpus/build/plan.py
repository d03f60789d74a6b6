"""What encode.py is asked to do, and how the work is divided: a plan that does not depend on who carries it out.

Files are cut into tasks at places that follow from their sizes alone. The fingerprint of a plan covers all that the
shards depend on: by it an interrupted run knows whether it can continue.
"""

import itertools
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from estimator import format_version, json_text, storage
from estimator.corpus import archive_parts, file_search, parquet, python_docs, readers, split_names
from estimator.corpus.containers import OnFault
from estimator.corpus.parts import PLAIN, Part, Reading
from estimator.errors import UserError

SPLITS = ("train", "valid", "test")
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


# Raised whenever the same conversations would give other shards, unless they are histories in text files.
CHATS_FORMAT = 3
SIZES = ("shard_tokens", "min_tokens", "task_bytes")


class Options(NamedTuple):
    """How text becomes shards.

    kind: of the files, one of `kinds.KINDS`.
    reading: how documents are found in files. fix_text, normalize: as for `normalize.clean`.
    min_tokens: shorter documents are left out.
    drop_exact_duplicates, drop_near_duplicates: of equal texts, or nearly equal ones, all but the first.
    split: fractions of the documents (valid, test), chosen by a hash of their text.
    shuffle: documents in an order that a hash of seed and text gives, or as they are in the inputs.
    shard_tokens: a shard ends with the document that reaches this many. format: of the shards. compress: gzip.
    skip_faults: omit input that is not text, and count it, instead of stopping. task_bytes: input of a task.
    by_names: folders and files called train, valid and test are divided by these names.
    """

    kind: str = "plain"
    reading: Reading = PLAIN
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
    by_names: bool = True

    def looked_for(self) -> Reading | None:
        """By what files of a folder are known to hold text, where they are to be looked at."""
        return self.reading if self.kind == "plain" else None

    def fault_handler(self, counts: Counter[str]) -> OnFault:
        """How faults are handled: raised, or counted by reason, as are omissions that are no fault."""

        def on_fault(reason: str, error: UserError | None) -> None:
            if error and not self.skip_faults:
                raise error
            counts[reason] += 1

        return on_fault

    def identity(self) -> dict[str, Any]:
        """All that the documents depend on; unused options are left out, as in earlier versions, which lacked them."""
        values = self._replace(skip_faults=False)._asdict()
        reading = values.pop("reading")
        values.pop("by_names")  # the splits of the files count
        key = reading.text_key[0] if len(reading.text_key) == 1 else reading.text_key
        changed = {name: value for name, value in reading._asdict().items() if value != getattr(PLAIN, name)}
        kept = {name: value for name, value in changed.items() if name not in ("text_key", "flags")}
        return {"kind": values.pop("kind"), "text_key": key, **values, **kept}

    def check(self) -> None:
        """UserError for values that make no sense."""
        readers.check_encoding(self.reading)
        for name, least, limit in (*((name, 1, 2**63) for name in SIZES), ("seed", 0, 2**64)):
            if not least <= getattr(self, name) < limit:
                raise UserError(f"--{name} {getattr(self, name)}: write a number from {least} to {limit - 1}")
        if self.compress and self.format != "tfrecord":
            raise UserError("--gzip is for --format tfrecord; .npz is compressed already, .npy is read in place")
        if not (min(self.split) >= 0 and sum(self.split) < 1):  # NaN too
            raise UserError("--split: fractions must be 0 or more, and below 1 together: --split valid=0.01,test=0.01")


class Task(NamedTuple):
    """Input of one task: parts of files of one corpus (its number) and one split (None: by hash)."""

    corpus: int
    split: int | None
    parts: tuple[Part, ...]


class BuildPlan(NamedTuple):
    """All that is to be done. bytes: of the input files, for each task. fingerprint: 32 hex digits.

    left_out: files of folders and patterns that are not read, by reason, for each corpus.
    """

    corpora: tuple[Corpus, ...]
    options: Options
    encoder: str
    tokenizer: str
    fingerprint: str
    bytes: tuple[int, ...]
    files: int
    tasks: tuple[Task, ...]
    left_out: tuple[dict[str, int], ...] = ()

    def write(self, folder: Path) -> None:
        """Keeps the plan in plan.jsonl, a line for the whole and one for each task, so that a worker reads only its."""
        head = {
            format_version.KEY: VERSION,
            "corpora": self.corpora,
            "options": self.options._asdict() | {"reading": self.options.reading._asdict()},
            "left_out": self.left_out,
            "encoder": self.encoder,
            "tokenizer": self.tokenizer,
            "fingerprint": self.fingerprint,
            "bytes": self.bytes,
            "files": self.files,
        }
        with storage.new_file(str(folder / "plan.jsonl"), "w") as file:
            file.write(json.dumps(head) + "\n")
            file.writelines(json.dumps(task) + "\n" for task in self.tasks)


def read_plan(folder: Path, *, task: int | None = None) -> BuildPlan | None:
    """The plan kept in a folder, with all its tasks or only one; None where there is none that can be read."""
    try:
        with open(folder / "plan.jsonl", encoding="utf-8") as file:
            head = json_text.loads(file.readline())
            format_version.check(head, folder / "plan.jsonl", known=VERSION)
            tasks = [
                Task(corpus, split, tuple(Part(*part) for part in parts))
                for number, line in enumerate(file)
                if task in (None, number)
                for corpus, split, parts in [json_text.loads(line)]
            ]
        head.pop(format_version.KEY, None)
        corpora = tuple(Corpus(name, tuple(inputs), weight) for name, inputs, weight in head.pop("corpora"))
        options = head.pop("options")
        options["split"] = tuple(options["split"])
        reading = options.pop("reading")
        options["reading"] = Reading(**reading | {key: tuple(reading[key]) for key in ("text_key", "special")})
        head["left_out"] = tuple(head["left_out"])  # KeyError: of an earlier version
        head["bytes"] = tuple(head["bytes"])
        return BuildPlan(corpora=corpora, options=Options(**options), tasks=tuple(tasks), **head)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def plan(corpora: Sequence[Corpus], options: Options, *, encoder: str, tokenizer: str) -> BuildPlan:
    """Finds the files and divides them. tokenizer: the digest of the vocabulary in the folder `encoder`."""
    options.check()
    if len({each.name for each in corpora}) < len(corpora):
        raise UserError("two corpora have the same name; give each its own: --corpus NAME=PATH")
    for each in corpora:
        if not each.name or os.path.basename(each.name) != each.name:
            raise UserError(f'the name of the shards, "{each.name}", must be a plain file name')
    _check_apart([each.name for each in corpora])
    files: list[tuple[int, int | None, str, int]] = []
    facts: list[list[Any]] = []
    left_out: list[Counter[str]] = []
    for number, each in enumerate(corpora):
        left_out.append(Counter())
        for path, split in _labelled(each.inputs, options, left_out[-1]):
            size, version = _facts(path)
            files.append((number, split, path, size))
            facts.append([number, split, file_search.real(path), size, version])
    task_bytes = max(options.task_bytes, sum(size for *_, size in files) // MAX_TASKS)
    tasks, sizes = _divide(files, task_bytes, options.reading.encoding)
    names = [[each.name, each.weight] for each in corpora]
    more = chats_format(options.kind, [path for *_, path, _ in files])
    identity = [VERSION, names, options.identity() | more, tokenizer, facts]
    fingerprint = sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return BuildPlan(
        tuple(corpora),
        options,
        encoder,
        tokenizer,
        fingerprint,
        tuple(sizes),
        len(files),
        tuple(tasks),
        tuple(left_out),
    )


def chats_format(kind: str, paths: Iterable[str]) -> dict[str, int]:
    """What shards of conversations depend on besides their text and options; nothing for histories in text files."""
    is_history = all(re.search(r"\.txt(\.|$)", path.lower()) for path in paths)
    return {"records": CHATS_FORMAT} if kind.startswith("chat-") and not is_history else {}


def _check_apart(names: Sequence[str]) -> None:
    """UserError for corpora of which one would have shards of the other's names."""
    for name, (split, purpose) in itertools.product(names, zip(SPLITS[1:], ("evaluation", "tests"), strict=True)):
        if (other := f"{name}_{split}") in names:
            raise UserError(
                f'the corpora "{name}" and "{other}": the shards of the first for {purpose} are called {other}, too; '
                f"give one of them another name, or both as one corpus: a folder with the sub-folders train and {split}"
            )


def _labelled(inputs: Sequence[str], options: Options, left_out: Counter[str]) -> list[tuple[str, int | None]]:
    """The files of a corpus, each once, with the number of the split that their folder or name says they are."""
    found = file_search.find(inputs, reading=options.looked_for(), left_out=left_out)
    files: list[tuple[str, int | None]] = [(path, None) for path in found]
    if options.by_names:
        files = _by_name(found)
    there = {split for _, split in files}
    if any(fraction and 1 + i not in there for i, fraction in enumerate(options.split)):
        # A fraction is asked for that no file is of: it is taken from those to train on.
        files = [(path, split or None) for path, split in files]
    return files


def _by_name(found: Sequence[str]) -> list[tuple[str, int | None]]:
    """The files, and in the place of archives whose members names divide the parts of these, each with its split."""
    parts = archive_parts.by_name(found)
    places = {path: place for place, path in enumerate(found)}
    files = [(path, split) for split, paths in enumerate((*parts[:3], parts.others)) for path in paths]
    files.sort(key=lambda each: places[each[0] if each[0] in places else str(archive_parts.archive_of(each[0]))])
    return [(path, split if split < len(SPLITS) else None) for path, split in files]


def note_on_names(made: BuildPlan) -> str | None:
    """A line that says which files are held out by their names."""
    held_out = [[part.path for task in made.tasks if task.split == split for part in task.parts] for split in (1, 2)]
    listed = [
        f"{split_names.listed(list(dict.fromkeys(paths)))} for {what}"
        for paths, what in zip(held_out, ("evaluation", "tests"), strict=True)
        if paths
    ]
    if not listed:
        return None
    return (
        f"by the names of files or folders, {' and '.join(listed)}, not for training; to train on them, too, give them "
        "as a corpus of their own (--corpus)"
    )


def _facts(path: str) -> tuple[int, str | int]:
    """Size, and what changes with the contents."""
    if path == python_docs.NAME:
        return 0, platform.python_version()
    path = archive_parts.archive_of(path) or path
    if storage.is_remote(path):
        found = storage.facts(path)
        return found.size, str(found)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _divide(
    files: Sequence[tuple[int, int | None, str, int]], task_bytes: int, encoding: str
) -> tuple[list[Task], list[int]]:
    """The tasks, in the order of the files, and the bytes of each."""
    tasks: list[tuple[int, int | None, list[Part]]] = []
    sizes: list[int] = []
    kind: tuple[int, int | None] | None = None
    for number, split, path, size in files:
        for part, part_bytes in _parts(path, size, task_bytes, encoding):
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


def _parts(path: str, size: int, task_bytes: int, encoding: str) -> list[tuple[Part, int]]:
    """A file, in parts if it is large and can be divided, with the bytes of each."""
    if path.lower().endswith(".parquet") and size > task_bytes:
        return _parquet_parts(path, task_bytes)
    kind = readers.divisible_type(path, encoding) if size > task_bytes else None
    if kind is None:
        return [(Part(path), size)]
    starts = range(0, size, task_bytes)
    return [
        (Part(path, start, stop if stop < size else None, number, kind), min(stop, size) - start)
        for number, (start, stop) in enumerate((start, start + task_bytes) for start in starts)
    ]


def _parquet_parts(path: str, task_bytes: int) -> list[tuple[Part, int]]:
    parts: list[tuple[Part, int]] = []
    first = total = 0
    sizes = parquet.group_sizes(path)
    for group, size in enumerate(sizes):
        total += size
        if total >= task_bytes or group == len(sizes) - 1:
            parts.append((Part(path, first, group + 1, len(parts), readers.FileType.PARQUET), total))
            first, total = group + 1, 0
    return parts if len(parts) > 1 else [(Part(path), sum(sizes))]
