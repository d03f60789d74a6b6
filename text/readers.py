"""The text of a file, or of a part of it: plain or JSON lines, gzip or zstd, on this machine or in a bucket.

A part begins and ends at places that follow from the file and the part's nominal borders alone, so that workers can
read the parts of one file at once and together read each byte once. What is no text is told by file and place.
"""

import codecs
import contextlib
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

from runtime import storage
from runtime.errors import UserError
from text import python_docs

BLOCK_BYTES = 1 << 19  # read at a time: what stays in the processor's cache
BYTE_ORDER_MARK = "\ufeff"
# Where a text file is cut into parts: after the first of these within so many bytes, the best one first.
PART_ENDS = (b"\n\n", b"\n\r\n", b"\n", b" ")
PART_SEARCH = 1 << 16
INSTALL = "pip install -r requirements-data.txt"

# Why something was left out, for counts.
NO_TEXT, DAMAGED, BAD_JSON, NO_KEY = "not text", "damaged file", "not valid JSON", "no text in the record"

OnFault = Callable[[str, UserError], None]
Progress = Callable[[int], None]


class Part(NamedTuple):
    """What is read at once.

    start, stop: in bytes; of a .parquet file in row groups; stop None is the end of the file.
    number: which part of the file it is; None where it is the whole file.
    """

    path: str
    start: int = 0
    stop: int | None = None
    number: int | None = None

    @property
    def stem(self) -> str:
        """What the names of its documents begin with."""
        stem = os.path.basename(self.path).partition(".")[0]
        return stem if self.number is None else f"{stem}-{self.number}"


class _Unreadable(Exception):
    """The file is damaged; the message says how."""


def refuse(reason: str, error: UserError) -> None:
    """What is done about a fault unless it is to be skipped."""
    raise error


def is_divisible(path: str) -> bool:
    """Whether parts of the file's bytes can be read."""
    return path != python_docs.NAME and not path.endswith((".gz", ".zst", ".parquet"))


def texts(
    part: Part, *, text_key: str, on_fault: OnFault = refuse, progress: Progress | None = None
) -> Iterator[tuple[str, str | Iterable[str]]]:
    """The name and the text, or its blocks, of each document of a part.

    on_fault: called with a reason and the error; where it returns, what is at fault is left out: a JSON line, a row, a
        text file, the rest of a damaged file.
    progress: called now and then with the bytes of the part that have been read.
    """
    if part.path == python_docs.NAME:
        yield from python_docs.documents()
    elif part.path.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        yield from _json_lines(part, text_key=text_key, on_fault=on_fault, progress=progress)
    else:
        try:
            if on_fault is not refuse:  # a file is left out whole, so all of it is looked at first
                for _ in _blocks_of_text(part, None):
                    pass
        except UserError as error:
            on_fault(DAMAGED if isinstance(error.__cause__, _Unreadable) else NO_TEXT, error)
            return
        yield part.stem, _blocks_of_text(part, progress)


# Text files.


def _blocks_of_text(part: Part, progress: Progress | None) -> Iterator[str]:
    """The text of a part in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(part) as (file, position_in_file):
        position = start = _place(file, part.start)
        stop = None if part.stop is None else _place(file, part.stop)
        if stop is not None or start:
            file.seek(start)
        while True:
            size = BLOCK_BYTES if stop is None else min(BLOCK_BYTES, stop - position)
            block = _read(part.path, lambda size=size: file.read(size))
            # The bytes of a character that the last block began with are still in the decoder.
            before = position - len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise not_text(part.path, before + error.start, block) from None
            if "\0" in text:
                raise not_text(part.path, before + len(text[: text.index("\0")].encode()), block)
            yield text.removeprefix(BYTE_ORDER_MARK) if position == 0 else text
            position += len(block)
            if progress:
                progress(position_in_file() - part.start)
            if not block:
                return


def _place(file: IO[bytes], nominal: int) -> int:
    """Where the part that should begin at some byte does begin: after a paragraph, line or word, never in a letter."""
    if not nominal:
        return 0
    file.seek(nominal)
    window = file.read(PART_SEARCH)
    for end in PART_ENDS:
        at = window.find(end)
        if at >= 0:
            return nominal + at + len(end)
    return nominal + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)


# JSON lines.


def lines(part: Part) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that begins in the part, blank ones too, with its line end."""
    number = 0
    for block, position in _blocks_of_lines(part, None):
        for line in io.BytesIO(block):  # which are split at line feeds and nothing else
            number += 1
            yield number, _decoded(line, path=part.path, position=position, first=number == 1)
            position += len(line)


def _blocks_of_lines(part: Part, progress: Progress | None) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about BLOCK_BYTES together, and the place of the first in the (unpacked) file."""
    with _opened(part) as (file, position_in_file):
        position = 0
        if part.start:
            file.seek(part.start - 1)
            position = part.start - 1 + len(file.readline())
        while part.stop is None or position < part.stop:
            size = BLOCK_BYTES if part.stop is None else min(BLOCK_BYTES, part.stop - position)
            block = _read(part.path, lambda size=size: file.read(size))
            if not block:
                return
            if not block.endswith(b"\n"):
                block += _read(part.path, file.readline)
            yield block, position
            position += len(block)
            if progress:
                progress(position_in_file() - part.start)


def _decoded(line: bytes, *, path: str, position: int, first: bool) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise not_text(path, position + error.start, line) from None
    return text.removeprefix(BYTE_ORDER_MARK) if first else text


def _json_lines(
    part: Part, *, text_key: str, on_fault: OnFault, progress: Progress | None
) -> Iterator[tuple[str, str]]:
    number = 0
    blocks = _blocks_of_lines(part, progress)
    decode = _decoder()
    while True:
        try:
            block, position = next(blocks, (b"", 0))
        except UserError as error:
            on_fault(DAMAGED, error)
            return
        if not block:
            return
        stem = part.stem
        for record in _records(block):
            number += 1
            try:
                values = decode(record)
                text = values[text_key]
                if isinstance(text, str):
                    name = values.get("id")
                    yield name if name and isinstance(name, str) else f"{stem}-{number}", text
                    continue
            except (ValueError, TypeError, KeyError, IndexError, RecursionError):
                pass
            # What is unusual is looked at again, with care.
            found = _unusual(bytes(record), part, number, block, position, text_key=text_key, on_fault=on_fault)
            if found:
                yield found[0] or f"{stem}-{number}", found[1]


def _records(block: bytes) -> Iterator[memoryview]:
    """The lines of a block without their ends; views, because copies of them take longer than finding them."""
    view, start = memoryview(block), 0
    while start < len(block):
        stop = block.find(b"\n", start)
        if stop < 0:
            stop = len(block)
        yield view[start:stop]
        start = stop + 1


def _decoder() -> Callable[[memoryview], Any]:
    """What decodes most lines, and gives up on the others: orjson if it is there, which is several times faster."""
    try:
        import orjson

        return orjson.loads
    except ImportError:
        decode = json.JSONDecoder().raw_decode

        def whole(record: memoryview) -> Any:
            text = str(record, "utf-8")
            values, end = decode(text)
            if end < len(text):
                raise ValueError
            return values

        return whole


def _unusual(
    line: bytes, part: Part, number: int, block: bytes, position: int, *, text_key: str, on_fault: OnFault
) -> tuple[str, str] | None:
    """Name and text of a line that is blank, is no UTF-8, begins with a byte order mark, or is not as expected."""
    try:
        record = _decoded(line, path=part.path, position=position + block.index(line), first=False)
    except UserError as error:
        on_fault(NO_TEXT, error)
        return None
    if number == 1 and not part.start:
        record = record.removeprefix(BYTE_ORDER_MARK)
    if not record.strip():
        return None
    try:
        return _fields(record, where=line_of(part, number), text_key=text_key)
    except UserError as error:
        on_fault(BAD_JSON if isinstance(error.__context__, ValueError) else NO_KEY, error)
        return None


def line_of(part: Part, number: int) -> str:
    """File and line; for a part of a file the lines before it are counted, which only an error does."""
    if part.start:
        with storage.open(part.path) as file:
            rest, skipped = part.start, 0
            while rest and (block := file.read(min(BLOCK_BYTES, rest))):
                skipped += block.count(b"\n")
                rest -= len(block)
            file.seek(part.start - 1)
            number += skipped + (file.read(1) != b"\n")
    return f"{part.path}, line {number}"


def _fields(record: str, *, where: str, text_key: str) -> tuple[str, str]:
    try:
        values = json.loads(record.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, column {error.colno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{where}: lists or objects within each other too deep to read") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object; expected {{"{text_key}": "..."}}')
    if text_key not in values:
        raise UserError(
            f'{where}: no key "{text_key}"; name the key of the text, which has {", ".join(values) or "none"}'
        )
    if not isinstance(values[text_key], str):
        raise UserError(f'{where}: the value of "{text_key}" is not text')
    name = values.get("id")
    return name if isinstance(name, str) else "", values[text_key]


# Bytes.


@contextlib.contextmanager
def _opened(part: Part) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The unpacked bytes of a file, and the place up to which the file itself has been read."""
    with storage.open(part.path) as raw:
        if part.path.endswith(".gz"):
            with gzip.open(raw, "rb") as file:
                yield file, raw.tell
        elif part.path.endswith(".zst"):
            with io.BufferedReader(_Unpacked(raw), BLOCK_BYTES) as file:
                yield file, raw.tell
        else:
            yield raw, raw.tell


class _Unpacked(io.RawIOBase):
    """The contents of a .zst file; other than zstandard's own reader it tells when the file is cut off."""

    def __init__(self, raw: IO[bytes]):
        try:
            import zstandard
        except ImportError:
            raise UserError(f"reading .zst files needs the package zstandard: {INSTALL}") from None
        self._raw = raw
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._unpack: Any = None  # of the frame that has begun
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._raw.read(1 << 16)
            if not self._packed:
                if self._unpack:
                    raise _Unreadable("it ends too early")
                return 0
            self._unpack = self._unpack or self._new()
            try:
                self._ready = self._unpack.decompress(self._packed)
            except self._error as error:
                raise _Unreadable(str(error)) from None
            self._packed = self._unpack.unused_data if self._unpack.eof else b""
            if self._unpack.eof:
                self._unpack = None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _read(path: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (gzip.BadGzipFile, EOFError, zlib.error, _Unreadable) as error:
        kind = "zstd" if path.endswith(".zst") else "gzip"
        raise UserError(
            f"{path}: damaged or incomplete {kind} file ({error}); copy or fetch it anew"
        ) from _Unreadable()


def not_text(path: str, offset: int, block: bytes) -> UserError:
    """What to raise where a file holds bytes that are no UTF-8, or a NUL. block: bytes there."""
    unzipped = " of the unzipped file" if path.endswith((".gz", ".zst")) else ""
    wide = offset == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    fix = "it looks like UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`" if wide else "convert it or leave it out"
    return UserError(f"{path}: not UTF-8 text at byte {offset}{unzipped}; {fix}")
