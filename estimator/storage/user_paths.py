"""Paths that a user wrote, in a JSON file or on the command line: spelled out, or refused before any work is done."""

import functools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from estimator import invocation
from estimator.errors import UserError

SCHEMES = ("gs", "s3")


def expanded(path: str) -> str:
    """The path with ~, a leading $VARIABLE and file:// spelled out. ValueError, with the fix, where it is no path."""
    if not path or "\0" in path:
        raise ValueError("an empty path, or one with a NUL; write the name of a file or folder")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"{path!r}: no file can have this name ({error.reason}); write another") from None
    if re.match(r"[A-Za-z]:[\\/]|\\\\\w", path):
        raise ValueError(f"{path}: a Windows path; write a path of this system (in WSL, C:\\x is /mnt/c/x)")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/+", path)
    if scheme and scheme[1].lower() == "file":
        url = urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"{path}: a file of another host; write file:///FOLDER/NAME, or the path alone")
        return unquote(url.path)
    scheme = scheme or re.match(r"(gs|s3):", path, re.IGNORECASE)
    if scheme and (scheme[1].lower() in SCHEMES or "://" in path):
        rest = path[scheme.end() :]
        known = scheme[1].lower() if scheme[1].lower() in SCHEMES else None
        if known is None:
            raise ValueError(f"{path}: not a kind of storage that is read here; write a path, gs://... or s3://...")
        if scheme[0] != f"{known}://" or not rest:
            raise ValueError(f"{path}: write {known}://{rest or 'BUCKET/FOLDER'}, with two slashes")
        return path
    full = path
    if variable := re.match(r"\$(\w+|\{\w+\})(?=/|$)", path):
        full = os.path.expandvars(variable[0]) + path[variable.end() :]
    if path.startswith("~"):
        full = os.path.expanduser(path)
    if full == path and (variable or path.startswith("~")) and not os.path.exists(path):
        raise ValueError(f"{path}: no such variable or home directory; write the path in full")
    return full


def argument(path: str) -> str:
    """`expanded` for an argument of a command line."""
    try:
        return expanded(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def config_file(path: str) -> str:
    """`argument` for a JSON file. configs/NAME.json that is not in the current folder is that of these programs."""
    path = argument(path)
    own = os.path.join(invocation.ROOT, path)
    if os.path.dirname(path) != "configs" or os.path.exists(path) or not os.path.isfile(own):
        return path
    _note_own(path, own)
    return own


@functools.cache
def _note_own(path: str, own: str) -> None:
    """Said once: a server reads its files again and again."""
    print(f"note: the current folder has no {path}; {own} is read", file=sys.stderr)


def require_output(path: str | None, name: str, *, inputs: Iterable[str], makes_folder: bool = False) -> None:
    """Raises UserError for an output file that could not be written after the work, or would replace an input.

    name: of the flag or key. inputs: the files that the command reads. makes_folder: whether it makes missing folders.
    """
    if path is None or "://" in path:
        return
    if os.path.isdir(path) or not (makes_folder or os.path.isdir(os.path.dirname(path) or ".")):
        fix = "is a folder; name a file in it" if os.path.isdir(path) else "its folder does not exist; make it first"
        raise UserError(f"{name} {path}: {fix}")
    for source in inputs:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise UserError(f"{name} {path}: the command reads this file; write to another")


def folder(path: str) -> Path:
    """The same for an argument that names a folder of this machine."""
    if "://" in (full := argument(path)):
        raise UserError(f"{path}: name a folder of this machine")
    return Path(full)
