"""Documents out of files: plain text and JSON lines, gzipped or not, one file, folders and patterns alike.

A .txt file is one document, a line of a .jsonl file is one. Long ones are cut into pieces, so that a single big file
can be divided into training and evaluation text, and none is ever held in memory whole. The order is always the same.
"""

import codecs
import glob
import gzip
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runtime.errors import UserError
from text import python_docs

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
MAX_DOCUMENT_CHARS = 100_000
BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = "\ufeff"
# Where a long document is cut, the best place first; within the last half of a piece.
CUT_AFTER = ("\n\n", "\n\r\n", "\n", " ")


class Document(NamedTuple):
    """A piece of text, and the name under which a shard records it."""

    name: str
    text: str


def documents(inputs: str | Sequence[str], *, text_key: str = "text") -> Iterator[Document]:
    """Every document of the inputs, in the order of the inputs, and of the path within a folder.

    inputs: files, folders (searched to the bottom for .txt, .txt.gz, .jsonl, .jsonl.gz), patterns like "data/*.txt", or
        the word python-docs.
    text_key: the key of a JSON line that holds the text.
    Raises UserError at once where an input matches nothing, and on the way where a file is no text or all is blank.
    """
    return _all_documents(find(inputs), text_key=text_key)


def _all_documents(paths: list[str], *, text_key: str) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in _documents(path, text_key=text_key):
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise UserError(f"no text in {_listed(paths)}: nothing but blanks; give files with text in them")


def find(inputs: str | Sequence[str]) -> list[str]:
    """The paths of all files of the inputs, each once; python-docs stays a word."""
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    if not inputs:
        raise UserError(f"no input: name a file, a folder, a pattern, or {python_docs.NAME}")
    found: dict[str, str] = {}
    for entry in inputs:
        for path in _expand(entry):
            found.setdefault(path if path == python_docs.NAME else os.path.realpath(path), path)
    return list(found.values())


def _expand(entry: str) -> list[str]:
    if entry == python_docs.NAME or os.path.isfile(entry):
        return [entry]
    if os.path.isdir(entry):
        paths = _walk(entry)
        if not paths:
            raise UserError(f"{entry}: no file in this folder ends with {', '.join(SUFFIXES)}")
        return paths
    if os.path.exists(entry):
        raise UserError(f"{entry} is neither a file nor a folder")
    if glob.has_magic(entry):
        matches = sorted(glob.glob(entry, recursive=True))
        paths = [path for match in matches for path in (_walk(match) if os.path.isdir(match) else [match])]
        if not paths:
            raise UserError(f"{entry}: no file matches this pattern")
        return paths
    raise UserError(f"{entry}: no such file or folder; check the spelling of the path")


def _walk(folder: str) -> list[str]:
    """The files of known kinds below a folder; hidden ones are left out."""
    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if name.endswith(SUFFIXES) and not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names]
    return sorted(paths, key=lambda path: Path(path).parts)


def _listed(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} files from {paths[0]} to {paths[-1]}"


def _documents(path: str, *, text_key: str) -> Iterator[Document]:
    if path == python_docs.NAME:
        texts: Iterable[tuple[str, Iterable[str]]] = ((name, [text]) for name, text in python_docs.documents())
    else:
        stem = os.path.basename(path).partition(".")[0]
        if path.endswith((".jsonl", ".jsonl.gz")):
            texts = ((f"{stem}-{number}", [text]) for number, text in _read_lines(path, text_key=text_key))
        else:
            texts = [(stem, _read_text(path))]
    for name, blocks in texts:
        pieces = cut(blocks)
        beginning = list(itertools.islice(pieces, 2))
        if len(beginning) < 2:
            yield from (Document(name, text) for text in beginning)
        else:
            for i, text in enumerate(itertools.chain(beginning, pieces)):
                yield Document(f"{name}-{i}", text)


def cut(blocks: Iterable[str]) -> Iterator[str]:
    """The text that the blocks make up, in pieces of at most MAX_DOCUMENT_CHARS, however it is divided into blocks."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > MAX_DOCUMENT_CHARS:
            stop = _end_of_piece(rest, start)
            yield rest[start:stop]
            start = stop
        rest = rest[start:]
    if rest:
        yield rest


def _end_of_piece(text: str, start: int) -> int:
    middle, stop = start + MAX_DOCUMENT_CHARS // 2, start + MAX_DOCUMENT_CHARS
    for separator in CUT_AFTER:
        at = text.rfind(separator, middle, stop)
        if at >= 0:
            return at + len(separator)
    return stop


def _read_text(path: str) -> Iterator[str]:
    """The text of a file in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    for block in _read_blocks(path):
        # The bytes of a character that the last block began with are still in the decoder.
        start = position - len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_text(path, start + error.start, block) from None
        if "\0" in text:
            raise _not_text(path, start + len(text[: text.index("\0")].encode()), block)
        yield text.removeprefix(BYTE_ORDER_MARK) if position == 0 else text
        position += len(block)


def _read_blocks(path: str) -> Iterator[bytes]:
    """The bytes of a file, unzipped, in blocks; the last one is empty."""
    with _open(path) as file:
        while True:
            block = _checked_read(path, lambda: file.read(BLOCK_BYTES))
            yield block
            if not block:
                return


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line of a file, blank ones too, with its line end."""
    position = 0
    with _open(path) as file:
        for number in itertools.count(1):
            line = _checked_read(path, file.readline)
            if not line:
                return
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_text(path, position + error.start, line) from None
            position += len(line)
            yield number, text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text


def _read_lines(path: str, *, text_key: str) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that is not blank."""
    for number, record in lines(path):
        if record.strip():
            yield number, _text_of(record, where=f"{path}, line {number}", text_key=text_key)


def _text_of(record: str, *, where: str, text_key: str) -> str:
    try:
        values = json.loads(record.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, column {error.colno}: not valid JSON ({error.msg})") from None
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object; expected {{"{text_key}": "..."}}')
    if text_key not in values:
        raise UserError(
            f'{where}: no key "{text_key}"; name the key of the text, which has {", ".join(values) or "none"}'
        )
    if not isinstance(values[text_key], str):
        raise UserError(f'{where}: the value of "{text_key}" is not text')
    return values[text_key]


def _open(path: str) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def _checked_read(path: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged or incomplete gzip file ({error}); copy or fetch it anew") from None


def _not_text(path: str, offset: int, block: bytes) -> UserError:
    unzipped = " of the unzipped file" if path.endswith(".gz") else ""
    wide = offset == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    fix = "it looks like UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`" if wide else "convert it or leave it out"
    return UserError(f"{path}: not UTF-8 text at byte {offset}{unzipped}; {fix}")
