"""The text of a file, or of a part of it: text, JSON, tables or HTML, packed or not, here or in a bucket.

What a file is, is decided by its name and its first bytes together (`file_types`, `containers`). A part begins and ends
at places that follow from the file and the part's nominal borders alone, so that workers can read the parts of one file
simultaneously and together read each byte once. Input that is not text is reported with file and position.
"""

import codecs
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from estimator import storage
from estimator.corpus import (
    archive_names,
    archive_parts,
    containers,
    file_types,
    json_values,
    parquet,
    python_docs,
    tables,
)
from estimator.corpus.containers import BLOCK_BYTES, Damaged, OnFault, Opened
from estimator.corpus.containers import INSTALL as INSTALL
from estimator.corpus.file_types import FileType
from estimator.corpus.parts import (
    BAD_JSON,
    BYTE_ORDER_MARK,
    DAMAGED,
    NO_TEXT,
    PLAIN,
    File,
    Part,
    Reading,
    Record,
    decoded,
    has_nul,
    is_encoding,
    not_text,
    refuse,
)
from estimator.errors import UserError
from estimator.tokenization.vocab_files import END_OF_TEXT

# Where a text file is cut into parts: after the first of these within so many bytes, the best one first.
PART_ENDS = (b"\n\n", b"\n\r\n", b"\n", b" ")
PART_SEARCH = 1 << 16
Progress = Callable[[int], None]


def divisible_type(path: str, encoding: str = "utf-8") -> FileType | None:
    """What a file is, if parts of its bytes can be read."""
    found = None if path == python_docs.NAME or archive_parts.archive_of(path) or encoding != "utf-8" else kind_of(path)
    return found if found in (FileType.TEXT, FileType.JSON_LINES) else None


def kind_of(path: str) -> FileType | str | None:
    """The type of a file, or what it is instead; None where it is packed."""
    with storage.open(path) as file:
        # The raw file, because in a bucket a buffer is megabytes.
        head = getattr(file, "raw", file).read(containers.HEAD_BYTES)
    if containers.packing(head, os.path.basename(path), label=path):
        return None
    return file_types.type_of(head, os.path.basename(path))


def fault_of(error: UserError) -> str:
    """The reason under which an error is counted."""
    return DAMAGED if isinstance(error, Damaged) else NO_TEXT


def files(part: Part, on_fault: OnFault = refuse, *, encoding: str = "utf-8") -> Iterator[File]:
    """The file of a part, or those in an archive. What holds no text is refused, or left out of the archive."""
    selection = archive_parts.selection(part.path)
    path = selection.archive if selection else part.path
    with storage.open(path) as raw:
        whole = Opened(path, os.path.basename(path), raw, raw.tell)
        if part.type is not None:
            yield File(part, whole, FileType(part.type))
            return
        members = archive_names.Members(path)
        # The first part says which members are in none, for all parts.
        unread = archive_parts.ignore if selection and selection.split else on_fault
        try:
            for opened in containers.unpacked(whole._replace(file=_peekable(raw)), unread):
                if selection and not selection.has(opened.label):
                    continue
                found = file_types.type_of(opened.file.peek(containers.HEAD_BYTES), opened.name)  # type: ignore[attr-defined]
                if isinstance(found, FileType):
                    members.add(opened.label)
                    yield File(part, _recoded(opened, encoding) if found is not FileType.PARQUET else opened, found)
                else:
                    other = file_types.OTHER_DATA.get(file_types.ending(containers.plain_name(opened.name)))
                    fix = other or "convert it to .txt, or leave it out"
                    error = UserError(f"{opened.label}: {found} holds no text that is read; {fix}")
                    on_fault(found, error if opened.label == path else None)
        finally:  # also of a damaged archive, of which the beginning is read
            if note := members.note():
                on_fault(note, None)


def _peekable(file: IO[bytes]) -> Any:
    return file if hasattr(file, "peek") else io.BufferedReader(file)  # type: ignore[arg-type]


def texts(
    part: Part, *, reading: Reading = PLAIN, on_fault: OnFault = refuse, progress: Progress | None = None
) -> Iterator[tuple[str, str | Iterable[str]]]:
    """The name of each document of a part, and the text of a record, or the blocks of a file of text.

    on_fault: called with a reason and the error; if it returns, the faulty part is omitted: a record, a text file,
        the rest of a damaged file. The error is None where there is only something to count.
    progress: called now and then with the bytes of the part that have been read.
    """
    if part.path == python_docs.NAME:
        yield from python_docs.documents()
        return
    try:
        for file in files(part, on_fault, encoding=reading.encoding):
            if file.type.is_records:
                keys, advised = reading.text_key, _with_advice(on_fault, reading)
                values = _values(file, advised, progress, text_key=keys, keys=keys)
                yield from json_values.texts(file, values, reading, on_fault)
            elif file.type is FileType.HTML:
                yield file.stem, file_types.text_of_page(file.opened.file.read(file_types.MAX_PAGE_BYTES))
            elif on_fault is not refuse and file.opened.label == part.path and not is_readable(part, reading, on_fault):
                return
            else:
                yield file.stem, _blocks_of_text(file, reading, progress)
    except UserError as error:
        on_fault(fault_of(error), error)


def records(
    part: Part,
    *,
    reading: Reading = PLAIN,
    on_fault: OnFault = refuse,
    progress: Progress | None = None,
    keys: Sequence[str] | None = None,
) -> Iterator[Record]:
    """The JSON values, or rows, of a file, of any type, or of the files in an archive; files of text are left out.

    reading: only its encoding and flags are looked at. on_fault, progress: as for `texts`.
    keys: names of the columns of tables that are looked at; None for all.
    """
    try:
        advised = _with_advice(on_fault, reading)
        for file in files(part, on_fault, encoding=reading.encoding):
            if file.type.is_records:
                yield from (Record(file, *each) for each in _values(file, advised, progress, keys=keys))
    except UserError as error:
        on_fault(fault_of(error), error)


def _with_advice(on_fault: OnFault, reading: Reading) -> OnFault:
    """Adds to errors of JSON, whose parser does not know the user's options, what to do; without options, nothing."""
    if reading is PLAIN:
        return on_fault

    def call(reason: str, error: UserError | None) -> None:
        skip = f"; correct it, or set {reading.fix('on_error', 'skip')} to leave it out"
        on_fault(reason, UserError(f"{error}{skip}") if error and reason == BAD_JSON else error)

    return call


def _values(
    file: File,
    on_fault: OnFault,
    progress: Progress | None,
    *,
    text_key: Sequence[str] | None = None,
    keys: Sequence[str] | None,
) -> Iterator[tuple[int, Any]]:
    """The number and value of each record. text_key: as for `json_values.of_stream`. keys: as for `records`."""
    match file.type:
        case FileType.JSON_LINES:
            return json_values.of_lines(file, _blocks_of_lines(file, progress), on_fault)
        case FileType.JSON:
            blocks = _blocks_of_text(file, PLAIN, progress)
            return json_values.of_stream(file, blocks, on_fault, text_key=text_key)
        case FileType.PARQUET:
            return parquet.rows(file, progress, keys, on_fault)
        case _:
            return tables.rows(file, (line for _, line in _lines(file, progress)), on_fault, keys)


# Text files.


def is_readable(part: Part, reading: Reading, on_fault: OnFault) -> bool:
    """Looks at all of a file of text that may be left out, which is then left out whole."""
    try:
        for file in files(part, encoding=reading.encoding):
            for _ in _blocks_of_text(file, reading, None):
                pass
    except UserError as error:
        on_fault(fault_of(error), error)
        return False
    return True


def _blocks_of_text(file: File, reading: Reading, progress: Progress | None) -> Iterator[str]:
    """The text of a part in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    part, (label, _, stream, tell, is_packed) = file.part, file.opened
    ends = [end.encode() for end in division_ends(reading)]
    position = start = _place(stream, part.start, ends)
    stop = None if part.stop is None else _place(stream, part.stop, ends)
    if stop is not None or start:
        stream.seek(start)
    while True:
        size = BLOCK_BYTES if stop is None else min(BLOCK_BYTES, stop - position)
        block = stream.read(size)
        # The bytes of a character that the last block began with are still in the decoder.
        before = position - len(decoder.getstate()[0])
        text, wrong = "", None
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            wrong = before + error.start
        nul = block.find(b"\0")
        if nul >= 0 and (wrong is None or position + nul < wrong):
            raise has_nul(label, position + nul, block, is_packed=is_packed, reading=reading)
        if wrong is not None:
            raise not_text(label, wrong, block, is_packed=is_packed, reading=reading)
        yield text.removeprefix(BYTE_ORDER_MARK) if position == 0 else text
        position += len(block)
        if progress:
            progress(tell() - part.start)
        if not block:
            return


def division_ends(reading: Reading) -> tuple[str, ...]:
    """What ends a document of a text file, and so may end a part of one."""
    mark = END_OF_TEXT if reading.separator is None else reading.separator
    line = {"line": ("\n",), "blank_line": ("\n\n", "\r\n\r\n")}.get(reading.division, ())
    return ((mark,) if mark else ()) + line


def _place(file: IO[bytes], nominal: int, ends: Sequence[bytes]) -> int:
    """Where the part that should begin at some byte does begin: after a paragraph, line or word, never in a letter."""
    if not nominal:
        return 0
    before = min(nominal, max(map(len, ends), default=1) - 1)  # a mark may have begun there
    file.seek(nominal - before)
    window = file.read(PART_SEARCH + before)
    for end in ends:
        at = window.find(end, max(0, before + 1 - len(end)))
        if at >= 0:
            return nominal - before + at + len(end)
    window = window[before:]
    for end in PART_ENDS:
        at = window.find(end)
        if at >= 0:
            return nominal + at + len(end)
    return nominal + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)


# Lines.


def lines(part: Part, *, encoding: str = "utf-8", on_fault: OnFault = refuse) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that begins in the part, blank ones too, with its line end.

    on_fault: as for `texts`, of members of an archive.
    """
    for file in files(part, on_fault, encoding=encoding):
        yield from _lines(file, None)


def _lines(file: File, progress: Progress | None) -> Iterator[tuple[int, str]]:
    number = 0
    for block, position in _blocks_of_lines(file, progress):
        for line in io.BytesIO(block):  # which are split at line feeds and nothing else
            number += 1
            yield number, decoded(line, file=file, position=position, first=number == 1)
            position += len(line)


def _blocks_of_lines(file: File, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about BLOCK_BYTES together, and the place of the first in the (unpacked) file."""
    part, stream = file.part, file.opened.file
    position = 0
    if part.start:
        stream.seek(part.start - 1)
        position = part.start - 1 + len(stream.readline())
    while part.stop is None or position < part.stop:
        block = stream.read(BLOCK_BYTES if part.stop is None else min(BLOCK_BYTES, part.stop - position))
        if not block:
            return
        if not block.endswith(b"\n"):
            block += stream.readline(json_values.MAX_RECORD)
            if len(block) > json_values.MAX_RECORD:
                raise UserError(
                    f"{file.opened.label}: a line of more than {json_values.MAX_RECORD >> 20} MiB; divide it"
                )
        yield block, position
        position += len(block)
        if progress:
            progress(file.opened.tell() - part.start)


# Encodings.


def _recoded(opened: Opened, encoding: str) -> Opened:
    """The file as UTF-8."""
    if encoding == "utf-8":
        return opened
    return opened._replace(file=io.BufferedReader(_Recoded(opened, encoding), BLOCK_BYTES))


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8."""

    def __init__(self, opened: Opened, encoding: str):
        self._file, self._label, self._encoding = opened.file, opened.label, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready, self._read, self._is_over = b"", 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._is_over:
            block = self._file.read(BLOCK_BYTES)
            self._is_over = not block
            try:
                self._ready = self._decoder.decode(block, final=not block).encode()
            except UnicodeError as error:
                offset = self._read + getattr(error, "start", 0)
                raise UserError(f"{self._label}: not {self._encoding} text near byte {offset} ({error}); name another "
                                "encoding, or leave the file out") from None  # fmt: skip
            self._read += len(block)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def check_encoding(reading: Reading) -> None:
    """UserError for the name of an encoding that there is not."""
    if not is_encoding(reading.encoding):
        raise UserError(f"{reading.fix('text_encoding', reading.encoding)}: no such encoding; give utf-16 or cp1252")
