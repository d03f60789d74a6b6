"""Which files the inputs name: files themselves, folders with all below them, and patterns."""

import difflib
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from estimator import storage
from estimator.corpus import archive_parts, file_types, python_docs, readers
from estimator.corpus.containers import HIDDEN, plain_name
from estimator.corpus.parts import PLAIN, Part, Reading
from estimator.errors import UserError

OF_RUNS = "folders of runs"
NO_FILES = "not a file, but a broken link, a pipe or a socket"
_SINGULAR = partial(re.compile(r"\b(file|folder|document|conversation|duplicate)s\b").sub, r"\1", count=1)


def find(
    inputs: str | Sequence[str], *, reading: Reading | None = PLAIN, left_out: Counter[str] | None = None
) -> list[str]:
    """The paths of all files of the inputs, each once; python-docs stays a word.

    A named file is always taken. Of a folder those with the endings in `file_types.IN_FOLDERS` are taken, of
    a pattern all but those that hold no text. reading: .json files and tables of a folder that lack its keys are not.
    left_out: counts of omissions by reason.
    """
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    if not inputs:
        raise UserError(f"no input: name a file, a folder, a pattern, or {python_docs.NAME}")
    search = _Search(reading, Counter() if left_out is None else left_out)
    found: dict[str, str] = {}
    for entry in inputs:
        for path in search.expand(entry):
            found.setdefault(real(path), path)
    return list(found.values())


def real(path: str) -> str:
    """The same for all names of a file."""
    if archive := archive_parts.archive_of(path):
        return real(archive) + path.removeprefix(archive)
    return path if path == python_docs.NAME or storage.is_remote(path) else os.path.realpath(path)


def _below(folder: str, path: str) -> str:
    """The path of a file from a folder that holds it, which may be written with more slashes than it needs."""
    if not storage.is_remote(folder):
        return os.path.relpath(path, folder)
    single = partial(re.sub, r"(?<!:)//+", "/")
    return single(path).removeprefix(single(folder).rstrip("/") + "/")


def counted(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers, for the console: 3 exact duplicates, 1 .md file."""
    return ", ".join(f"{count:,} {_SINGULAR(reason) if count == 1 else reason}" for reason, count in counts.items())


def listed(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers; if files of a folder that is text was left out, how to read them too."""
    ends = [end for end in file_types.OTHER_TEXTS if _of_ending(end) in counts]
    patterns = ", ".join(f'"FOLDER/**/*{end}"' for end in ends)
    return counted(counts) + (f"; name text among them by a pattern too: {patterns}" if ends else "")


def _of_ending(end: str) -> str:
    """The reason for leaving out a folder's files with an ending."""
    return f"{end} files" if end else "files without an ending"


class _Search(NamedTuple):
    """Files of the inputs. reading, left_out: as for `find`."""

    reading: Reading | None
    left_out: Counter[str]

    def expand(self, entry: str) -> list[str]:
        if entry == python_docs.NAME or storage.is_file(entry) or archive_parts.archive_of(entry):
            return [entry]
        before = self.left_out.copy()
        if storage.is_folder(entry):
            return self._checked(self._in_folder(entry), entry, "no file in this folder", before)
        if not storage.is_remote(entry) and os.path.exists(entry):
            raise UserError(f"{entry} is neither a file nor a folder")
        if glob.has_magic(entry):
            paths = []
            for match in storage.glob(entry):
                if not storage.is_file(match):
                    paths += self._in_folder(match)
                elif self._is_text(match):
                    paths.append(match)
            return self._checked(paths, entry, "no file matches this pattern", before)
        raise UserError(f"{entry}: no such file or folder; {_advice(entry)}")

    def _checked(self, paths: list[str], entry: str, nothing: str, before: Counter[str]) -> list[str]:
        if paths:
            return paths
        gone = self.left_out - before
        if not gone:
            ends = f" ends with {', '.join(file_types.IN_FOLDERS)}" if "folder" in nothing else ""
            raise UserError(f"{entry}: {nothing}{ends}")
        ends = sorted({end for reason in gone for end in reason.split() if end.startswith(".")})
        if ".tfrecords" in ends:
            raise UserError(f'{entry}: {nothing} is text, but it holds shards; train on them with "input": "packed"')
        ends.sort(key=lambda end: end not in file_types.OTHER_TEXTS)
        fix = f'; name them by a pattern, if they are text: "{entry}/**/*{ends[0]}"' if ends else ""
        if other := next((file_types.OTHER_DATA[end] for end in ends if end in file_types.OTHER_DATA), ""):
            fix = f"; {other}"
        raise UserError(f"{entry}: {nothing} is read; left out: {counted(gone)}{fix}")

    def _is_text(self, path: str) -> bool:
        """Whether a file that a pattern matches may hold text, which decides only about names that do not say so."""
        name = plain_name(os.path.basename(path))
        if file_types.ending(name) in file_types.IN_FOLDERS:
            return True
        if name.startswith("."):
            self.left_out[HIDDEN] += 1
            return False
        kind = readers.kind_of(path)
        if not isinstance(kind, file_types.FileType | None):
            self.left_out[f"{file_types.ending(name) or name} ({kind})"] += 1
            return False
        return True

    def _in_folder(self, folder: str) -> list[str]:
        """The files of known kinds below a folder, without hidden ones and what training runs have written."""
        if storage.is_remote(folder):
            paths = storage.listing(folder)
            shown = [path for path in paths if not any(name[:1] == "." for name in _below(folder, path).split("/"))]
            self._count(HIDDEN, len(paths) - len(shown))
            return [path for path in shown if self._is_wanted(path)]
        paths = []
        seen = set()  # folders by their true names: links are followed, but not in circles
        for parent, folders, files in os.walk(folder, followlinks=True):
            if os.path.realpath(parent) in seen or _is_ours(parent):
                self._count(OF_RUNS, os.path.realpath(parent) not in seen)
                folders.clear()
                continue
            seen.add(os.path.realpath(parent))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            shown = [name for name in files if not name.startswith(".")]
            self._count(HIDDEN, len(files) - len(shown))
            readable = [name for name in shown if os.path.isfile(os.path.join(parent, name))]
            self._count(NO_FILES, len(shown) - len(readable))  # opening a pipe would wait for a writer forever
            paths += [path for name in sorted(readable) if self._is_wanted(path := os.path.join(parent, name))]
        return sorted(paths, key=lambda path: Path(path).parts)

    def _is_wanted(self, path: str) -> bool:
        """Whether a file of a folder is one to read."""
        end = file_types.ending(plain_name(os.path.basename(path)))
        if end not in file_types.IN_FOLDERS:
            self._count(_of_ending(end), 1)
            return False
        # Folders of text have such files with other things in them too: labels, settings, what a data set is.
        if (end == ".json" or end in file_types.TABLES) and self.reading and not self._has_text(path, self.reading):
            self._count(f'{end} files without "{self.reading.text_key[0]}"', 1)
            return False
        return True

    def _has_text(self, path: str, reading: Reading) -> bool:
        try:
            return next(readers.texts(Part(path), reading=reading), None) is not None
        except UserError:
            return False

    def _count(self, reason: str, number: int) -> None:
        self.left_out.update([reason] * number)  # nothing for 0


def _advice(entry: str) -> str:
    """How to correct a path that does not exist."""
    folder, name = os.path.split(entry.strip("\"' \t\r\n"))
    there = os.listdir(folder or ".") if not storage.is_remote(entry) and os.path.isdir(folder or ".") else []
    several = [part.strip() for part in entry.split(",")]
    if len(several) > 1 and all(part and storage.exists(part) for part in several):
        return f"for several, write a list: {json.dumps(several)}"
    if os.path.islink(entry):
        return "it is a link to a file that does not exist"
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.7)
    return f"did you mean {os.path.join(folder, near[0])}?" if near else "check the spelling of the path"


def _is_ours(folder: str) -> bool:
    """Whether a folder is of a run, or of text that was prepared for one: its files are no text to train on."""
    pairs = {"config.json": "checkpoints", "prepared.json": "shards"}
    return any(all(os.path.exists(os.path.join(folder, name)) for name in pair) for pair in pairs.items())
