"""Documents out of files: which files the inputs name, and their text in pieces of a size that fits in memory.

A .txt file is one document, a line of a .jsonl file is one, a row of a .parquet file is one (`readers`). Long ones are
cut into pieces, so that a single big file can be divided into training and evaluation text, and none is ever held in
memory whole. The order is always the same.
"""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runtime import storage
from runtime.errors import UserError
from text import parquet, python_docs, readers
from text.readers import Part, refuse

SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MAX_DOCUMENT_CHARS = 100_000
# Where a long document is cut, the best place first; within the last half of a piece.
CUT_AFTER = ("\n\n", "\n\r\n", "\n", " ")


class Document(NamedTuple):
    """A piece of text, and the name under which a shard records it."""

    name: str
    text: str


def documents(inputs: str | Sequence[str], *, text_key: str = "text") -> Iterator[Document]:
    """Every document of the inputs, in the order of the inputs, and of the path within a folder.

    inputs: files, folders (searched to the bottom for the endings in SUFFIXES), patterns like "data/*.txt", or the word
        python-docs; on this machine or in a bucket (gs://..., s3://...).
    text_key: the key of a JSON line, or the column of a .parquet file, that holds the text.
    Raises UserError at once where an input matches nothing, and on the way where a file is no text or all is blank.
    """
    return _all_documents(find(inputs), text_key=text_key)


def _all_documents(paths: list[str], *, text_key: str) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in documents_of(Part(path), text_key=text_key):
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise no_text(paths)


def no_text(paths: Sequence[str]) -> UserError:
    """What to raise where files hold nothing but blanks."""
    listed = paths[0] if len(paths) == 1 else f"{len(paths)} files from {paths[0]} to {paths[-1]}"
    return UserError(f"no text in {listed}: nothing but blanks; give files with text in them")


def documents_of(
    part: Part,
    *,
    text_key: str,
    on_fault: Callable[[str, UserError], None] = refuse,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """The documents of a file or a part of it, blank ones too. on_fault, progress: as for `readers.texts`."""
    read = parquet.texts if part.path.endswith(".parquet") else readers.texts
    for name, blocks in read(part, text_key=text_key, on_fault=on_fault, progress=progress):
        if isinstance(blocks, str) and len(blocks) <= MAX_DOCUMENT_CHARS:
            yield Document(name, blocks)
            continue
        pieces = cut([blocks] if isinstance(blocks, str) else blocks)
        beginning = list(itertools.islice(pieces, 2))
        if len(beginning) < 2:
            yield from (Document(name, text) for text in beginning)
        else:
            for i, text in enumerate(itertools.chain(beginning, pieces)):
                yield Document(f"{name}-{i}", text)


def find(inputs: str | Sequence[str]) -> list[str]:
    """The paths of all files of the inputs, each once; python-docs stays a word."""
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    if not inputs:
        raise UserError(f"no input: name a file, a folder, a pattern, or {python_docs.NAME}")
    found: dict[str, str] = {}
    for entry in inputs:
        for path in _expand(entry):
            found.setdefault(real(path), path)
    return list(found.values())


def real(path: str) -> str:
    """The same for all names of a file."""
    return path if path == python_docs.NAME or storage.is_remote(path) else os.path.realpath(path)


def _expand(entry: str) -> list[str]:
    if entry == python_docs.NAME or storage.is_file(entry):
        return [entry]
    if storage.is_folder(entry):
        paths = _walk(entry)
        if not paths:
            raise UserError(f"{entry}: no file in this folder ends with {', '.join(SUFFIXES)}")
        return paths
    if not storage.is_remote(entry) and os.path.exists(entry):
        raise UserError(f"{entry} is neither a file nor a folder")
    if glob.has_magic(entry):
        matches = storage.glob(entry)
        paths = [path for match in matches for path in ([match] if storage.is_file(match) else _walk(match))]
        if not paths:
            raise UserError(f"{entry}: no file matches this pattern")
        return paths
    raise UserError(f"{entry}: no such file or folder; check the spelling of the path")


def _walk(folder: str) -> list[str]:
    """The files of known kinds below a folder. Hidden ones are left out, and so is what training runs have written."""
    if storage.is_remote(folder):
        below = len(folder.rstrip("/")) + 1
        paths = [
            path for path in storage.listing(folder) if not any(name[:1] == "." for name in path[below:].split("/"))
        ]
        return [path for path in paths if path.endswith(SUFFIXES)]
    paths = []
    seen = set()  # folders by their true names: links are followed, but not in circles
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen or _is_ours(parent):
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in files if name.endswith(SUFFIXES) and not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names]
    return sorted(paths, key=lambda path: Path(path).parts)


def _is_ours(folder: str) -> bool:
    """Whether a folder is of a run, or of text that was prepared for one: its files are no text to train on."""
    beside = {"config.json": "checkpoints", "prepared.json": "shards"}
    return any(all(os.path.exists(os.path.join(folder, name)) for name in pair) for pair in beside.items())


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line of a file, blank ones too, with its line end."""
    return readers.lines(Part(path))


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
