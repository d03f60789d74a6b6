"""What kind of thing a body is, whatever its header claims, and in which characters it is written."""

import codecs
import re

TEXT_TYPES = frozenset(("text/html", "application/xhtml+xml", "text/plain"))
SNIFFED_BYTES = 1024
# Beginnings of files that servers send as text/html; what has a NUL byte is found without them.
_MAGIC = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"RIFF",
    b"ID3",
    b"OggS",
    b"\x7fELF",
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_META_CHARSET = re.compile(
    rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE
)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE)
# The names that the WHATWG reads as Windows-1252, the superset of the two that old pages mean by them.
_LATIN = frozenset(("ascii", "us-ascii", "iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1"))


def is_text_type(content_type: str) -> bool:
    """Whether a Content-Type header says HTML or plain text, or nothing."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind in TEXT_TYPES


def is_text(body: bytes, content_type: str) -> bool:
    """Whether a body that came as this type is text; one that came as none must look like HTML or plain text."""
    head = body[:SNIFFED_BYTES]
    if head.startswith(_MAGIC):
        return False
    if any(head.startswith(mark) for mark, _ in _BOMS) or "utf-16" in content_type.lower():
        return True
    return b"\0" not in head and is_text_type(content_type)


def decode(body: bytes, content_type: str = "") -> str:
    """The characters of a page; never fails.

    As browsers choose: a byte order mark, the header's charset, the one that the page names, UTF-8 where it fits,
    Windows-1252. A charset that does not fit the bytes, while UTF-8 does, is taken for a mistake.
    """
    for mark, encoding in _BOMS:
        if body.startswith(mark):
            return body.decode(encoding, errors="replace")
    named = _HEADER_CHARSET.search(content_type)
    inner = _META_CHARSET.search(body[:SNIFFED_BYTES])
    for name in (named and named[1], inner and inner[1].decode("ascii"), "utf-8"):
        if name:
            try:
                return body.decode(_codec(name))
            except (UnicodeDecodeError, LookupError, ValueError):
                continue
    return body.decode("cp1252", errors="replace")


def _codec(name: str) -> str:
    """Python's name of a charset of text; LookupError for another."""
    name = name.lower()
    if name in _LATIN:
        return "cp1252"
    if not codecs.lookup(name)._is_text_encoding:
        raise LookupError(name)
    return {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949"}.get(name, name)
