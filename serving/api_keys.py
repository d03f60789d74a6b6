"""API keys: made here, kept as hashes, compared in constant time.

A key has 256 random bits, so a fast hash protects it: nobody can try them all. The file has a line for each key:

    NAME SHA256-IN-HEX [admin]
"""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import NamedTuple

from estimator import invocation
from estimator.errors import UserError

PREFIX = "sk-gpt2-"


class ApiKey(NamedTuple):
    """One line of the file. is_admin: may load, unload and swap models."""

    name: str
    sha256: str
    is_admin: bool


class ApiKeys:
    """The keys of a server."""

    def __init__(self, keys: list[ApiKey]):
        self._keys = keys

    def find(self, secret: str) -> ApiKey | None:
        """The key that was presented; all are compared, so that the time tells nothing."""
        given, match = _hash(secret), None
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                match = key
        return match


def read(path: str) -> ApiKeys:
    """Reads a file of keys. Raises UserError with the line at fault."""
    keys = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        is_hash = len(words) > 1 and len(words[1]) == 64 and not set(words[1].lower()) - set("0123456789abcdef")
        if len(words) > 3 or not is_hash or words[2:] not in ([], ["admin"]):
            raise UserError(f"{path}, line {number}: expected NAME SHA256 [admin], as serve.py --new_key writes it")
        keys.append(ApiKey(words[0], words[1].lower(), len(words) == 3))
    if not keys:
        raise UserError(f"{path} has no key; make one: {invocation.program('serve.py')} --new_key NAME --keys {path}")
    return ApiKeys(keys)


def add(path: str, name: str, *, is_admin: bool = False) -> str:
    """Appends a new key to the file, which only its owner can read, and returns the key: it is kept nowhere."""
    if not name or len(name.split()) != 1 or name.startswith("#") or not name.isprintable():
        raise UserError(f"--new_key {name!r}: write a name of letters and digits, without blanks")
    secret = PREFIX + secrets.token_urlsafe(32)
    file = Path(path)
    before = _text(path) if file.exists() else ""
    if any(line.split()[:1] == [name] for line in before.splitlines()):
        raise UserError(f"{path} has a key named {name}; remove its line, or choose another name")
    file.touch(mode=0o600)
    with file.open("a", encoding="utf-8") as lines:
        end = "\n" if before and not before.endswith("\n") else ""  # of a line that an editor left open
        lines.write(f"{end}{name} {_hash(secret)}{' admin' if is_admin else ''}\n")
    return secret


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; name a file that serve.py --new_key wrote") from None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
