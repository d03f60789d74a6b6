"""Documents out of files: their text in pieces of a size that fits in memory.

A file of text is one document, or several where something divides it; a JSON record or a row of a table is one
(`readers`). Long ones are cut into pieces, so that a single big file can be divided into training and evaluation text,
and none is ever held in memory whole. The order is always the same.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from estimator.corpus import archive_names, file_search, readers
from estimator.corpus.containers import OnFault
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
_NOTED = (DIVIDED, WRITTEN, *SPELLED.values())


def is_noted(reason: str) -> bool:
    """Whether a reason of counts is of text that was read, not left out."""
    return reason in _NOTED or bool(archive_names.notes([reason]))


class NoTextError(UserError):
    """Files without text."""


class Document(NamedTuple):
    """A piece of text, and the name under which a shard records it."""

    name: str
    text: str


def documents(
    inputs: str | Sequence[str],
    *,
    reading: Reading = PLAIN,
    on_fault: OnFault = refuse,
    counts: Counter[str] | None = None,
) -> Iterator[Document]:
    """Every document of the inputs, in the order of the inputs, and of the path within a folder.

    inputs: files, folders (searched to the bottom, see `file_search.find`), patterns like "data/*.txt", or the word
        python-docs; on this machine or in a bucket (gs://..., s3://...).
    on_fault: as for `readers.texts`. counts: of what it omits, by reason, to which the files left out of folders are
        added.
    Raises UserError immediately if an input matches nothing, and while reading if a file is not text or all is blank.
    """
    counts = Counter() if counts is None else counts
    return _all_documents(file_search.find(inputs, reading=reading, left_out=counts), reading, on_fault, counts)


def _all_documents(
    paths: list[str], reading: Reading, on_fault: OnFault, counts: Mapping[str, int]
) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in documents_of(Part(path), reading=reading, on_fault=on_fault):
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise no_text(paths, counts)


def no_text(paths: Sequence[str], counts: Mapping[str, int] = MappingProxyType({})) -> NoTextError:
    """What to raise where files hold nothing but blanks. counts: of omissions by reason."""
    listed = paths[0] if len(paths) == 1 else f"{len(paths)} files from {paths[0]} to {paths[-1]}"
    if left_out := {reason: count for reason, count in counts.items() if not is_noted(reason)}:
        fix = "give files with text in them, or do not skip faults (on_error), which says what is wrong"
        return NoTextError(f"no text in {listed}; left out: {file_search.counted(left_out)}; {fix}")
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
