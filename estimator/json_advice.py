"""Explains common errors of JSON files that were written by hand."""

import json
import re

QUOTES = "'`\u2018\u2019\u201c\u201d\u201e"  # which editors of documents put in the place of "
WORDS = {"True": "true", "False": "false", "None": "null"}


def of_syntax(text: str, error: json.JSONDecodeError) -> str:
    """Explains common syntax errors better than the parser."""
    rest, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if not rest:
        return "the file ends here; write the rest of it" if before else 'the file is empty; write {"KEY": VALUE, ...}'
    if error.msg == "Extra data":
        return "more after the closing bracket; remove it"
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments; remove it"
    if rest.startswith(("}", "]")) and before.endswith(","):
        return "a comma before the closing bracket; remove it"
    if rest.startswith(",") and re.match(r",\s*[}\]]", rest):
        return "a comma before the closing bracket; remove it"
    if error.msg.startswith("Expecting ',' delimiter") and rest.startswith('"'):
        return "a comma is missing before it"
    if rest[0] in QUOTES:
        return 'strings are written with double quotes, "'
    if error.msg.startswith("Expecting") and not (found := text[error.pos]).isascii():
        return f"{found!a} is no part of JSON outside strings; remove it"
    if word := re.match(r"(True|False|None)\b", rest):
        return f"{word[0]} is Python's; write {WORDS[word[0]]}"
    return ""
