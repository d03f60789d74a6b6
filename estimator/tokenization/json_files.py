"""Reads the text and JSON files of a vocabulary; a file that cannot be read is a user error that names it."""

import json
from pathlib import Path
from typing import Any

from estimator import json_text
from estimator.errors import UserError, naming
from estimator.storage import lfs


def read_text(path: Path) -> str:
    """The whole file, without a byte order mark; UserError where it is not UTF-8."""
    try:
        with naming(path):
            return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; is it the right file?") from None


def read_object(path: Path, *, expected: str) -> dict[str, Any]:
    """The JSON object in a file; UserError where it holds none. expected: what the file should hold, for errors."""
    try:
        contents = json_text.loads(read_text(path))
    except json.JSONDecodeError as error:
        lfs.refuse_pointer(path)
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); expected {expected}; is the file complete?"
        ) from None
    except ValueError as error:  # a number of thousands of digits, or lists within each other
        raise UserError(f"{path}: not read ({error}); expected {expected}; is it the right file?") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path}: not a JSON object; expected {expected}")
    return contents
