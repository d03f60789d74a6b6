"""The characters of a page from its bytes: what the header says, the page says, and the bytes show.

The order is that of browsers (WHATWG, "Encoding" and "HTML" 13.2.3), with one exception: bytes that are valid UTF-8 and
not ASCII are UTF-8 whatever was declared, because text in another encoding almost never is.

The tables are our own: resiliparse 2.0's map_encoding_to_html5 gives Python's Shift_JIS, EUC-KR, GBK and Big5, which
lack characters that browsers read, and no name for cp949 or x-mac-cyrillic; its detect_encoding takes Korean pages for
UTF-8 when it is asked for the names of HTML5.
"""

import codecs
import re

MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
DECLARED = re.compile(
    rb"""<meta[^>]{0,400}?charset\s*=\s*["']?\s*([\w:.-]{2,40})|<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w:.-]{2,40})""",
    re.IGNORECASE,
)
DECLARED_WITHIN = 8192
HEADER = re.compile(r"""charset\s*=\s*["']?\s*([\w:.-]{2,40})""", re.IGNORECASE)
# What browsers read where the smaller encoding of the same family is declared (WHATWG "Encoding", 4.2).
WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-8",  # declared in ASCII bytes, so it is not
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
# Python codecs that are not page encodings: escapes of programs and host names, and UTF-7, which no browser reads.
NOT_OF_PAGES = frozenset(("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"))
# A guess of another encoding, which pages almost never have, is read as windows-1252, as browsers do.
GUESSES = frozenset((*(f"cp{page}" for page in (*range(1250, 1259), 874, 932, 949)), "euc_jp", "gb18030", "big5hkscs",
                     "iso8859-2", *(f"iso8859-{part}" for part in range(5, 9)), "koi8-r", "koi8-u"))  # fmt: skip
# Encodings whose bytes are all ASCII.
ASCII_BYTES = ("iso2022_jp", "hz")
WORST = 0.01


def decode(body: bytes, content_type: str = "") -> tuple[str, str]:
    """The text, and the encoding in which it was read; bytes that mean nothing become U+FFFD.

    content_type: the value of the HTTP header, or "".
    """
    for mark, name in MARKS.items():
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    if wide := _without_mark(body):
        return body.decode(wide, "replace"), wide
    declared = [name for name in (_of_header(content_type), _of_page(body)) if name]
    if body.isascii():
        name = next((name for name in declared if name in ASCII_BYTES), "utf-8")
        return body.decode(name, "replace"), name
    # A page that is cut within a character, or has a stray byte, is still UTF-8.
    for name in ["utf-8", *declared]:
        text = body.decode(name, "replace")
        if text.count("\ufffd") <= (0 if name == "utf-8" and "utf-8" not in declared else WORST * len(text)):
            return text, name
    name = _guessed(body)
    return body.decode(name, "replace"), name


def _of_header(content_type: str) -> str:
    found = HEADER.search(content_type)
    return _known(found[1]) if found else ""


def _of_page(body: bytes) -> str:
    found = DECLARED.search(body[:DECLARED_WITHIN])
    return _known((found[1] or found[2]).decode("ascii")) if found else ""


def _known(label: str) -> str:
    """Python's name of an encoding of text, or ""."""
    try:
        name = codecs.lookup(label).name
        "".encode(name)  # LookupError for codecs that are not of text, such as rot13 and base64
    except (LookupError, ValueError):
        return ""
    return "" if name in NOT_OF_PAGES else WIDER.get(name, name)


def _without_mark(body: bytes) -> str:
    """UTF-16 without a byte order mark shows in "<" and a zero byte."""
    start = body[:512].lstrip(b"\r\n\t ")
    if start.startswith(b"<\0"):
        return "utf-16-le"
    return "utf-16-be" if start.startswith(b"\0<") else ""


def _guessed(body: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    # The names of HTML5, its default, lack cp949: Korean pages would be called UTF-8.
    name = _known(detect_encoding(body, html5_compatible=False) or "")
    return name if name in GUESSES else "cp1252"
