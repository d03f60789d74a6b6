"""What readers are given and give: parts of files, how documents are found in them, and records with their places."""

import argparse
import codecs
import os
from typing import Any, NamedTuple

from estimator import storage
from estimator.corpus.containers import BLOCK_BYTES, Opened
from estimator.corpus.file_types import FileType
from estimator.errors import UserError
from estimator.tokenization.vocab_files import END_OF_TEXT

BYTE_ORDER_MARK = "\ufeff"

# Why something was left out, for counts.
NO_TEXT, DAMAGED, BAD_JSON, NO_KEY = "not text", "damaged file", "not valid JSON", "no text in the record"


class Reading(NamedTuple):
    """How documents are found in files.

    text_key: of JSON records and columns: a key, a path such as data.text, or several, whose texts are joined by an
        empty line. encoding: of files of text, JSON and tables.
    separator: divides texts into documents; None is <|endoftext|>, in files of text only; "" is nothing.
    division: of a file of text: file, line, blank_line, or title (WikiText's lines `= Title =`).
    special: names of special tokens that are read as such where they are written in text.
    flags: "--" where the user names these as options of a program, "" where as keys of a JSON file.
    """

    text_key: tuple[str, ...] = ("text",)
    separator: str | None = None
    division: str = "file"
    encoding: str = "utf-8"
    special: tuple[str, ...] = ()
    flags: str = ""

    def fix(self, name: str, value: str) -> str:
        """An option as it is written by the user: --text_key body, or "text_key": "body"."""
        return f"{self.flags}{name} {value}" if self.flags else f'"{name}": "{value}"'


PLAIN = Reading()


class Part(NamedTuple):
    """A span that is read in one call.

    start, stop: in bytes; of a .parquet file in row groups; stop None is the end of the file.
    number: which part of the file it is; None where it is the whole file. type: of the file, where it was divided.
    """

    path: str
    start: int = 0
    stop: int | None = None
    number: int | None = None
    type: str | None = None

    @property
    def stem(self) -> str:
        """What the names of its documents begin with."""
        stem = os.path.basename(self.path).partition(".")[0]
        return stem if self.number is None else f"{stem}-{self.number}"


class File(NamedTuple):
    """A file that is no archive, open at its first byte: the one of a part, or one within it."""

    part: Part
    opened: Opened
    type: FileType

    @property
    def stem(self) -> str:
        """What the names of its documents begin with."""
        return self.part.stem if not self.opened.is_packed else os.path.basename(self.opened.name).partition(".")[0]

    def where(self, number: int) -> str:
        """A record by its number: file and line, row or record; of a part the lines before it are counted."""
        if self.part.start and self.type is FileType.JSON_LINES:
            return line_of(self.part, number)
        return f"{self.opened.label}, {self.type.counted} {number}"


class Record(NamedTuple):
    """A JSON value, or a row as an object; a number, from 1, in its file."""

    file: File
    number: int
    value: Any

    @property
    def where(self) -> str:
        return self.file.where(self.number)


def add_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The options of a program that say how documents are found in files."""
    add = parser.add_argument
    add("--text_key", action="append", metavar="KEY", help=(
        "key or column of the text, or a path such as data.text (text); given several times, the texts are joined"
    ))  # fmt: skip
    add("--documents", choices=("file", "line", "blank_line", "title"), default="file", help=(
        "of a text file: the file, a line, what blank lines divide, or WikiText's titles (%(default)s)"
    ))  # fmt: skip
    add(
        "--separator", metavar="TEXT", help=f"divides texts; {END_OF_TEXT} in text files, \\n is a line end, '' nothing"
    )
    add("--special", action="append", metavar="NAME", help=(
        "a special token that is written in the text, such as <|startoftext|>; may be repeated"
    ))  # fmt: skip
    add("--text_encoding", default=PLAIN.encoding, metavar="NAME", help="utf-16, cp1252, ... (%(default)s)")


def reading_from(arguments: argparse.Namespace) -> Reading:
    """What these options say."""
    keys = tuple(arguments.text_key or PLAIN.text_key)
    separator = arguments.separator
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")
    return Reading(keys, separator, arguments.documents, arguments.text_encoding, tuple(arguments.special or ()), "--")


def is_encoding(name: str) -> bool:
    """Whether there is an encoding of text of this name."""
    try:
        return codecs.lookup(name)._is_text_encoding  # type: ignore[attr-defined]
    except (LookupError, ValueError):  # ValueError: of a NUL or half a character in the name
        return False


def refuse(reason: str, error: UserError | None) -> None:
    """The default fault handler: raises the error, if there is one."""
    if error:
        raise error


def decoded(line: bytes, *, file: File, position: int, first: bool) -> str:
    """A line's text. position: of its first byte in the file. first: whether a byte order mark may begin it."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        opened = file.opened
        raise not_text(opened.label, position + error.start, line, is_packed=opened.is_packed) from None
    return text.removeprefix(BYTE_ORDER_MARK) if first else text


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


class NotText(UserError):
    """A file holds bytes that are no text in its encoding."""


def not_text(label: str, offset: int, block: bytes, *, is_packed: bool, reading: Reading = PLAIN) -> NotText:
    """What to raise where a file holds bytes that are no UTF-8. block: bytes there."""
    unzipped = " of the unzipped file" if is_packed else ""
    wide = offset == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    guess = "UTF-16" if wide else "cp1252"
    named = reading.fix("text_encoding", guess.lower())
    fix = f"it looks like UTF-16: set {named}, or convert it with `iconv -f UTF-16 -t UTF-8`" if wide else (
        f"convert it, leave it out, or, if all text is in one other encoding, name that: {named}"
    )  # fmt: skip
    return NotText(f"{label}: not UTF-8 text at byte {offset}{unzipped}; {fix}")


def has_nul(label: str, offset: int, block: bytes, *, is_packed: bool, reading: Reading = PLAIN) -> NotText:
    """What to raise where a file holds a NUL, which is valid UTF-8 and no text. block: the bytes up to it and more."""
    within = " of the unzipped file" if is_packed else ""
    if reading.encoding != PLAIN.encoding:
        within = " of the text in UTF-8"
    pairs = block[: len(block) // 2 * 2]
    little, big = (pairs[start::2].count(0) * 2 > len(pairs) // 2 for start in (1, 0))
    if offset < 2 and little != big and reading.encoding == PLAIN.encoding:
        guess = "utf-16-le" if little else "utf-16-be"
        fix = f"it looks like UTF-16 without its mark: set {reading.fix('text_encoding', guess)}"
    else:
        fix = (
            "if the file is text, remove such bytes with `tr -d '\\000' < FILE > NEW`; else leave it out, or set "
            f"{reading.fix('on_error', 'skip')}"
        )
    return NotText(f"{label}: a NUL byte at byte {offset}{within}, which text has none of; {fix}")
