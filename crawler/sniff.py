"""What kind of thing a body is, whatever its header claims."""

import codecs

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
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the first two bytes of UTF-32 are UTF-16's


def is_text_type(content_type: str) -> bool:
    """Whether a Content-Type header says HTML or plain text, or nothing."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind in TEXT_TYPES


def is_text(body: bytes, content_type: str) -> bool:
    """Whether a body that came as this type is text; one that came as none must look like HTML or plain text."""
    head = body[:SNIFFED_BYTES]
    if head.startswith(_MAGIC):
        return False
    if head.startswith(_MARKS) or "utf-16" in content_type.lower():
        return True
    return b"\0" not in head and is_text_type(content_type)
