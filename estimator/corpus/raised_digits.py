"""Digits above and below the line of an HTML page, which text would join to the number before them.

Extractors drop the tags, and 10<sup>9</sup> would be 109.
"""

import re

_WITHIN_LINES = "a|abbr|b|big|cite|code|em|font|i|kbd|nobr|q|s|samp|small|span|strong|tt|u|var"
_INLINE = rf"(?:</?(?:{_WITHIN_LINES})\b[^<>]*>|</su[bp]\s*>)*"
_SIGN = "(?:[+-]|\N{MINUS SIGN}|\N{EN DASH}|&minus;|&ndash;|&#8722;|&#8211;)"
_TAGS = r"(?:\s*<(?!/su[bp]\b)[^<>]*>)*\s*"  # but no end of a sup or sub
_DIGITS = rf"{_TAGS}(?:{_SIGN}{_TAGS})?\d"
_FRACTION = r"\d+\s*</sup\s*>\s*(?:/|" + "\N{FRACTION SLASH}" + r"|&frasl;|&#8260;)\s*<sub\b"
_JOINED = rf"(?<=\d)({_INLINE}<su([bp])\b[^<>]*>(?={_DIGITS})(?=({_FRACTION})?))"
_IN_TEXT = re.compile(_JOINED, re.IGNORECASE)
_IN_BYTES = re.compile(_JOINED.encode(), re.IGNORECASE)  # UTF-8, and all that has ASCII's digits and tags


def set_apart(page: str) -> str:
    """The page with 10^9 for 10<sup>9</sup>, 101_2 for 101<sub>2</sub>, and 3 1/2 where 1/2 is raised and lowered."""
    return _IN_TEXT.sub(lambda found: _mark(found[2], found[3]) + found[1], page)


def set_apart_in_bytes(page: bytes) -> bytes:
    """As `set_apart`, of a page that is not yet decoded."""
    return _IN_BYTES.sub(lambda found: _mark(found[2].decode(), found[3]).encode() + found[1], page)


def _mark(kind: str, fraction: str | bytes | None) -> str:
    if fraction is not None:
        return " "
    return "^" if kind in "pP" else "_"
