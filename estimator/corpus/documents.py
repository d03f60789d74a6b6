"""Documents out of files: which files the inputs name, and their text in pieces of a size that fits in memory.

A file of text is one document, or several where something divides it; a JSON record or a row of a table is one
(`readers`). Long ones are cut into pieces, so that a single big file can be divided into training and evaluation text,
and none is ever held in memory whole. The order is always the same.
"""

import difflib
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from estimator import storage
from estimator.corpus import file_types, python_docs, readers
from estimator.corpus.containers import HIDDEN, OnFault, plain_name
from estimator.corpus.parts import PLAIN, Part, Reading, refuse
from estimator.errors import UserError
from estimator.tokenization.vocab_files import END_OF_TEXT

MAX_DOCUMENT_CHARS = 100_000
# Where a long document is cut, the best place first; within the last half of a piece.
CUT_AFTER = ("\n\n", "\n\r\n", "\n", " ")
# Between documents of a file of text, and how many characters must be seen to know.
DIVISIONS = {
    "file": (None, 0),
    "line": (r"\n", 1),
    "blank_line": (r"\n(?:[ \t\r]*\n)+", 1 << 10),
    "title": (r"(?<=\n)(?= ?= (?![= ])[^\n]*[^= \n] = ?\r?\n[ \t\r]*\n)", 1 << 10),  # WikiText's `= Title =`
}
# Counted without being left out.
DIVIDED, WRITTEN = f"{END_OF_TEXT} between texts, which divided them", f"{END_OF_TEXT} within records, kept as text"
# Marks that other programs put around texts; they are tokens only where the user says so.
SPELLED = {
    name: f"documents with {name}, read as plain text (the key special and the option --special read it as a token)"
    for name in ("<|startoftext|>", "<s>", "</s>")
}
NOTED = (DIVIDED, WRITTEN, *SPELLED.values())
OF_RUNS = "folders of runs"
NO_FILES = "not a file, but a broken link, a pipe or a socket"
_SINGULAR = partial(re.compile(r"\b(file|folder|document|conversation|duplicate)s\b").sub, r"\1", count=1)


class NoTextError(UserError):
    """Files without text."""


class Document(NamedTuple):
    """A piece of text, and the name under which a shard records it."""

    name: str
    text: str


def documents(inputs: str | Sequence[str], *, reading: Reading = PLAIN) -> Iterator[Document]:
    """Every document of the inputs, in the order of the inputs, and of the path within a folder.

    inputs: files, folders (searched to the bottom, see `find`), patterns like "data/*.txt", or the word python-docs; on
        this machine or in a bucket (gs://..., s3://...).
    Raises UserError immediately if an input matches nothing, and while reading if a file is not text or all is blank.
    """
    return _all_documents(find(inputs, reading=reading), reading)


def _all_documents(paths: list[str], reading: Reading) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in documents_of(Part(path), reading=reading):
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise no_text(paths)


def no_text(paths: Sequence[str], counts: Mapping[str, int] = MappingProxyType({})) -> NoTextError:
    """What to raise where files hold nothing but blanks. counts: of omissions by reason."""
    listed = paths[0] if len(paths) == 1 else f"{len(paths)} files from {paths[0]} to {paths[-1]}"
    if left_out := {reason: count for reason, count in counts.items() if reason not in NOTED}:
        fix = "give files with text in them, or do not skip faults (on_error), which says what is wrong"
        return NoTextError(f"no text in {listed}; left out: {counted(left_out)}; {fix}")
    return NoTextError(f"no text in {listed}: nothing but blanks; give files with text in them")


def documents_of(
    part: Part,
    *,
    reading: Reading = PLAIN,
    on_fault: OnFault = refuse,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """The documents of a file or a part of it, blank ones too. on_fault, progress: as for `readers.texts`."""
    spelled = [item for item in SPELLED.items() if item[0] not in (*reading.special, reading.separator)]
    for document in _documents_of(part, reading, on_fault, progress):
        if "<" in document.text:
            for name, reason in spelled:
                if name in document.text:
                    on_fault(reason, None)
        yield document


def _documents_of(
    part: Part, reading: Reading, on_fault: OnFault, progress: Callable[[int], None] | None
) -> Iterator[Document]:
    in_texts, in_records = _divider(reading, is_record=False), _divider(reading, is_record=True)
    is_noted = reading.separator is None
    for name, blocks in readers.texts(part, reading=reading, on_fault=on_fault, progress=progress):
        divider = in_texts
        if isinstance(blocks, str):
            if is_noted and "|" in blocks and END_OF_TEXT in blocks:  # one character is found much faster
                on_fault(WRITTEN, None)
            if in_records is None and len(blocks) <= MAX_DOCUMENT_CHARS:
                yield Document(name, blocks)
                continue
            blocks, divider = [blocks], in_records
        pieces = cut(blocks) if divider is None else _divided(blocks, divider, on_fault)
        try:
            beginning = list(itertools.islice(pieces, 2))
            if len(beginning) < 2:
                yield from (Document(name, text) for text in beginning)
            else:
                for i, text in enumerate(itertools.chain(beginning, pieces)):
                    yield Document(f"{name}-{i}", text)
        except UserError as error:  # of a member of an archive: another file has been looked at before
            on_fault(readers.fault_of(error), error)


def whole(path: str, *, reading: Reading = PLAIN) -> Iterator[Document]:
    """The documents of a file that are not blank, none cut into pieces. Raises UserError as `documents` does."""
    found = False
    for name, blocks in readers.texts(Part(path), reading=reading):
        divider = _divider(reading, is_record=isinstance(blocks, str))
        text = blocks if isinstance(blocks, str) else "".join(blocks)
        parts = [text] if divider is None else divider.pattern.split(text)
        for part in parts:
            if part.strip():
                found = True
                yield Document(name, part if len(parts) == 1 else part.strip("\r\n"))
    if not found:
        raise no_text([path])


# Files.


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
    return path if path == python_docs.NAME or storage.is_remote(path) else os.path.realpath(path)


def below(folder: str, path: str) -> str:
    """The path of a file from a folder that holds it, which may be written with more slashes than it needs."""
    if not storage.is_remote(folder):
        return os.path.relpath(path, folder)
    single = partial(re.sub, r"(?<!:)//+", "/")
    return single(path).removeprefix(single(folder).rstrip("/") + "/")


def counted(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers, for the console: 3 exact duplicates, 1 .md file."""
    return ", ".join(f"{count:,} {_SINGULAR(reason) if count == 1 else reason}" for reason, count in counts.items())


class _Search(NamedTuple):
    """Files of the inputs. reading, left_out: as for `find`."""

    reading: Reading | None
    left_out: Counter[str]

    def expand(self, entry: str) -> list[str]:
        if entry == python_docs.NAME or storage.is_file(entry):
            return [entry]
        before = self.left_out.copy()
        if storage.is_folder(entry):
            return self._checked(self._below(entry), entry, "no file in this folder", before)
        if not storage.is_remote(entry) and os.path.exists(entry):
            raise UserError(f"{entry} is neither a file nor a folder")
        if glob.has_magic(entry):
            paths = []
            for match in storage.glob(entry):
                if not storage.is_file(match):
                    paths += self._below(match)
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
        fix = f'; name them by a pattern, if they are text: "{entry}/**/*{ends[0]}"' if ends else ""
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

    def _below(self, folder: str) -> list[str]:
        """The files of known kinds below a folder, without hidden ones and what training runs have written."""
        if storage.is_remote(folder):
            paths = storage.listing(folder)
            shown = [path for path in paths if not any(name[:1] == "." for name in below(folder, path).split("/"))]
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
            self._count(f"{end} files" if end else "files without an ending", 1)
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
    if os.path.islink(entry):
        return "it is a link to a file that does not exist"
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.7)
    return f"did you mean {os.path.join(folder, near[0])}?" if near else "check the spelling of the path"


def _is_ours(folder: str) -> bool:
    """Whether a folder is of a run, or of text that was prepared for one: its files are no text to train on."""
    pairs = {"config.json": "checkpoints", "prepared.json": "shards"}
    return any(all(os.path.exists(os.path.join(folder, name)) for name in pair) for pair in pairs.items())


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line of a file, blank ones too, with its line end."""
    return readers.lines(Part(path))


# Pieces.


def cut(blocks: Iterable[str]) -> Iterator[str]:
    """The text that the blocks make up, in pieces of at most MAX_DOCUMENT_CHARS, however it is divided into blocks."""
    rest = ""
    for block in blocks:
        rest += block
        pieces, rest = _cut_off(rest)
        yield from pieces
    if rest:
        yield rest


def _cut_off(text: str) -> tuple[list[str], str]:
    """Cuts text longer than MAX_DOCUMENT_CHARS into pieces; returns them and the rest, which is shorter."""
    pieces, start = [], 0
    while len(text) - start > MAX_DOCUMENT_CHARS:
        stop = _end_of_piece(text, start)
        pieces.append(text[start:stop])
        start = stop
    return pieces, text[start:]


def _end_of_piece(text: str, start: int) -> int:
    middle, stop = start + MAX_DOCUMENT_CHARS // 2, start + MAX_DOCUMENT_CHARS
    for separator in CUT_AFTER:
        at = text.rfind(separator, middle, stop)
        if at >= 0:
            return at + len(separator)
    return stop


class _Divider(NamedTuple):
    """What divides documents. ahead: how many characters must be seen to know. mark: a character that it always has."""

    pattern: re.Pattern[str]
    ahead: int
    mark: str


def _divider(reading: Reading, *, is_record: bool) -> _Divider | None:
    mark = reading.separator
    if mark is None:
        mark = "" if is_record else END_OF_TEXT
    division, ahead = (None, 0) if is_record else DIVISIONS[reading.division]
    if division is None:
        return _Divider(re.compile(re.escape(mark)), len(mark), max(mark)) if mark else None
    either = f"{re.escape(mark)}|{division}" if mark else division
    return _Divider(re.compile(either), max(ahead, len(mark)), "")


def _divided(blocks: Iterable[str], divider: _Divider, on_fault: OnFault) -> Iterator[str]:
    """The documents that are not blank, without line ends around them where they were divided, in pieces."""
    rest, is_divided, is_open = "", False, False  # is_open: the rest continues a document that has pieces already
    for block in itertools.chain(blocks, (None,)):
        rest += block or ""
        start = 0
        for match in divider.pattern.finditer(rest) if not divider.mark or divider.mark in rest else ():
            if match.end() > len(rest) - divider.ahead and block is not None:
                break
            if match.end() > 0:
                if match[0] == END_OF_TEXT:
                    on_fault(DIVIDED, None)
                yield from _pieces(
                    rest[start : match.start()], is_open=is_open, from_division=is_divided, to_division=True
                )
                start, is_divided, is_open = match.end(), True, False
        rest = rest[start:]
        if block is not None and len(rest) > MAX_DOCUMENT_CHARS + divider.ahead:
            whole, rest = rest, ""
            # What may yet turn out to be divided stays.
            pieces, rest = _cut_off(whole)
            if len(rest) < divider.ahead:
                rest = pieces.pop() + rest
            if pieces and is_divided and not is_open:
                pieces[0] = pieces[0].lstrip("\r\n")
            yield from pieces
            is_open = is_open or bool(pieces)
    yield from _pieces(rest, is_open=is_open, from_division=is_divided, to_division=False)


def _pieces(text: str, *, is_open: bool, from_division: bool, to_division: bool) -> Iterator[str]:
    """The end of a document, or all of it, in pieces."""
    if from_division and not is_open:
        text = text.lstrip("\r\n")
    if to_division or from_division:
        text = text.rstrip("\r\n")
        if not text.strip() and not is_open:
            return
    pieces, rest = _cut_off(text)
    yield from pieces
    if rest:
        yield rest
