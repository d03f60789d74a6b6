"""What a file is, by its name and its first bytes together: the names lie, and bytes alone do not tell a table."""

import enum
import re

from estimator import invocation, json_text
from estimator.corpus.containers import plain_name
from estimator.corpus.raised_digits import set_apart_in_bytes
from estimator.errors import import_failed
from estimator.storage import lfs

# Endings of names (in lower case, without those of compression) of files of text, which a folder is searched for.
TEXTS = (".txt", ".text")
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PAGES = (".html", ".htm", ".xhtml")
ARCHIVES = (".zip", ".tar")
# Endings that are not taken of a folder, and are those of text nearly always.
OTHER_TEXTS = (".md", ".markdown", ".rst", ".org", ".tex", *PAGES)
IN_FOLDERS = (*TEXTS, *JSON_LINES, ".json", *TABLES, ".parquet", *ARCHIVES)
# Endings of other data, with what to do with such a file. Dataset.save_to_disk writes streams of Arrow.
_AS_PARQUET = 'pyarrow.parquet.write_table(pyarrow.ipc.open_stream(pyarrow.OSFile("X.arrow")).read_all(), "X.parquet")'
OTHER_DATA = {
    ".arrow": f"write each .arrow file as Parquet: {_AS_PARQUET}",
    **dict.fromkeys((".bin", ".npy", ".npz"), 'token ids, as in train.bin, are trained on with "input": "packed"'),
}
MAX_PAGE_BYTES = 10_000_000
_IMAGE, _OFFICE, _SOUND = "an image", "a document of an office program", "sound or video"
_MAGIC = {
    b"%PDF": "a PDF", b"\x89PNG": _IMAGE, b"\xff\xd8\xff": _IMAGE, b"GIF8": _IMAGE, b"II*\0": _IMAGE, b"MM\0*": _IMAGE,
    b"\xd0\xcf\x11\xe0": _OFFICE, b"{\\rtf": _OFFICE, b"PK\0": _OFFICE, b"OggS": _SOUND, b"ID3": _SOUND,
    b"fLaC": _SOUND, b"\x7fELF": "a program", b"SQLite format 3": "a database", b"\x93NUMPY": "an array of numbers",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a RAR archive", b"ARROW1": "an Arrow file",
}  # fmt: skip
BINARY = "a binary file"
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html[\s>])",
                   re.IGNORECASE | re.DOTALL)  # fmt: skip
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # UTF-16 begins with one of these


class FileType(enum.StrEnum):
    """Types of files that hold text. Values are kept in plans."""

    TEXT = "text"
    JSON_LINES = "json_lines"
    JSON = "json"  # an array, or values one after another
    TABLE = "table"
    PARQUET = "parquet"
    HTML = "html"

    @property
    def is_records(self) -> bool:
        return self not in (FileType.TEXT, FileType.HTML)

    @property
    def counted(self) -> str:
        """The unit that error messages number in such a file."""
        return {FileType.JSON: "record", FileType.PARQUET: "row"}.get(self, "line")


def ending(name: str) -> str:
    """Of a name without the endings of compression, in lower case."""
    return name[name.rfind(".") :].lower() if "." in name else ""


def type_of(head: bytes, name: str) -> FileType | str:
    """The type of an unpacked file, or what it is instead. head: its first kilobytes, or all of it."""
    end = ending(plain_name(name))
    if head.startswith(lfs.POINTER):
        return "a pointer of Git LFS (run `git lfs pull`)"
    if head.startswith(b"PAR1") or end == ".parquet":
        return FileType.PARQUET
    if end == ".office":
        return _OFFICE
    if end in TABLES:
        return FileType.TABLE
    if end in JSON_LINES or end == ".json":
        return _json_type(head, is_lines=end != ".json") or (FileType.JSON_LINES if end != ".json" else FileType.JSON)
    if end not in TEXTS:
        for magic, what in _MAGIC.items():
            if head.startswith(magic):
                return what
        if b"\0" in head and not head.startswith(_WIDE):
            return BINARY
    if end in PAGES or _PAGE.match(head):
        return FileType.HTML
    return _json_type(head, is_lines=None) or FileType.TEXT


def _json_type(head: bytes, *, is_lines: bool | None) -> FileType | None:
    """How JSON values are laid out in a file. is_lines: by its name; where that is None, the bytes must show JSON."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] not in (b"{", b"["):
        return None
    rows = [row.strip() for row in start.split(b"\n")]
    first = rows[0]
    value = _parsed(first)
    if value is None:
        if is_lines is not None:
            pretty = first in (b"{", b"[") or start[:1] == b"[" or not is_lines
            return FileType.JSON if pretty else FileType.JSON_LINES
        return FileType.JSON if _begins_with_object(start) else None
    following = next((row for row in rows[1:] if row), b"")
    if isinstance(value, dict):
        # Prose in braces is no JSON: one line alone must look like a record.
        if is_lines is False and not following:  # perhaps one object around all records
            return FileType.JSON
        return FileType.JSON_LINES if is_lines is not None or value else None
    lists = following.startswith(b"[") or (is_lines is not False and b'"role"' in first)
    if is_lines is None and not any(isinstance(each, dict) for each in value):
        return None
    return FileType.JSON_LINES if lists else FileType.JSON


def _begins_with_object(start: bytes) -> bool:
    """Whether text can only be JSON: `[ {"key":` or `{ "key":`, over lines or not."""
    return re.match(rb'(\[\s*)?\{\s*"(?:[^"\\]|\\.){0,200}"\s*:', start) is not None


def _parsed(line: bytes) -> dict | list | None:
    try:
        value = json_text.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def text_of_page(page: bytes) -> str:
    """The main text of an HTML page; UserError where a package for it is missing."""
    try:
        import trafilatura
    except ImportError as error:
        raise import_failed(
            error, f"reading .html files needs the package trafilatura: {invocation.install('data')}"
        ) from error
    return trafilatura.extract(set_apart_in_bytes(page), include_comments=False) or ""
