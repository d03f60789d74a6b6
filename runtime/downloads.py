"""A file from the web: continued where it was cut off, verified, and under its name only when it is whole.

What has arrived lies in NAME.part, and in NAME.part.json what tells the file's version (ETag, or the time it was last
changed). A part is continued by a range request that is valid for that version only (If-Range); when the server has
another version, or ignores ranges, it begins anew. Proxies are taken from the environment, as urllib does.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import UserError

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
TRIES = 8  # in a row that bring nothing new
FIRST_TRIES = 4  # before anything has come
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds between tries, doubled each time
BUSY = (408, 425, 429, 500, 502, 503, 504)
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<error")
Progress = Callable[[int, int | None], object]


class Remote(NamedTuple):
    """A file on the web. size, sha256: what it must have, where that is known."""

    url: str
    size: int | None = None
    sha256: str | None = None


class NotThere(UserError):
    """The server has no such file."""


class _Changed(Exception):
    """What has arrived is not of the file that is there now."""


class _Again(Exception):
    """Something that may pass; the message says what."""


def download(
    remote: Remote, path: Path, *, progress: Progress = lambda done, total: None, pause: float = FIRST_PAUSE
) -> bool:
    """Brings a file to `path`, unless it is there already; returns whether it was brought.

    progress: is told the bytes that are there, and of how many. pause: seconds before the second try.
    Raises NotThere when there is no such file, UserError when it cannot be had whole: nothing is left under its name
    then, and what arrived is kept for the next time unless it is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _locked(part):
        if path.is_file():
            if problem(path, remote) is None:
                return False
            path.unlink()
        wrong = ""
        for _ in range(2):  # a file that is wrong is fetched anew once
            _fetch(remote, part, progress, pause)
            found = problem(part, remote)
            if found is None:
                os.replace(part, path)
                _state(part).unlink(missing_ok=True)
                return True
            _forget(part)
            if found == wrong:
                break
            wrong = found
    raise UserError(f"{remote.url} {wrong}; nothing of it was kept. Try later, or another place with --from")


def text(url: str) -> str:
    """A small document, such as a list of files. Raises NotThere or UserError."""
    failure = ""
    for tries in range(FIRST_TRIES):
        try:
            with _open(url, {}) as response:
                return response.read().decode("utf-8", "replace")
        except _Again as error:
            failure = str(error)
            time.sleep(FIRST_PAUSE * 2**tries)
        except (OSError, http.client.HTTPException) as error:
            failure = _reason(error)
    raise _unreachable(url, failure)


def _fetch(remote: Remote, part: Path, progress: Progress, pause: float) -> None:
    """Fills `part` until the server says that it is whole."""
    tries, wait, most = 0, pause, -1
    while True:
        try:
            if _receive(remote, part, progress):
                return
            failure = "the connection was cut"
        except _Changed:
            _forget(part)
            failure = "the file changed meanwhile"
        except _Again as error:
            failure = str(error)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:  # of the disk, not of the net
                raise
            failure = _reason(error)
        have = part.stat().st_size if part.exists() else 0
        if have > most:
            tries, wait, most = 0, pause, have
        tries += 1
        if tries >= (TRIES if have else FIRST_TRIES):
            raise _unreachable(remote.url, failure)
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_PAUSE)


def _receive(remote: Remote, part: Path, progress: Progress) -> bool:
    """One request; whether the file is whole after it."""
    have = part.stat().st_size if part.exists() else 0
    version = _read_state(part, remote.url)
    if have and not version:
        have = 0  # of an unknown version
    if have and have == remote.size:
        return True
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with _open(remote.url, headers) as response:
        if response.status == 416:  # nothing is left to send, or the file is shorter now
            total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
            if total and int(total[1]) == have:
                progress(have, have)
                return True
            raise _Changed
        total = _int(response.headers.get("Content-Length"))
        if have and response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not span or int(span[1]) != have or (_version(response) or version) != version:
                raise _Changed
            total = _int(span[3])
        else:
            have = 0
            _write_state(part, remote.url, _version(response))
        if remote.size is not None and total not in (None, remote.size):
            _forget(part)
            raise _Again(f"the server says {total:,} bytes, and the file has {remote.size:,}")
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            try:
                while data := response.read1(CHUNK):
                    file.write(data)
                    have += len(data)
                    progress(have, total or remote.size)
            finally:
                file.flush()
        whole = total if total is not None else remote.size
        return have >= whole if whole is not None else response.isclosed()


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "gpt2-jax", "Accept-Encoding": "identity", **headers})
    try:
        return urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        if error.code in BUSY:
            raise _Again(f"the server answers {error.code} {error.reason}") from None
        if error.code in (404, 410):
            raise NotThere(f"{url}: there is no such file ({error.code}); it may have moved, try --from") from None
        raise UserError(
            f"{url}: the server refuses with {error.code} {error.reason}; try another place with --from"
        ) from None


def _version(response: Any) -> str:
    """What If-Range takes: a strong ETag, else the time of the last change; "" when there is neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def problem(path: Path, remote: Remote) -> str | None:
    """What is wrong with a file that should be whole."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"has {size:,} bytes where {remote.size:,} are expected"
    with open(path, "rb") as file:
        if file.read(64).lstrip().lower().startswith(MARKUP):
            return "is a web page, probably an error message, and not the file"
        file.seek(0)
        if path.name.removesuffix(".part").endswith(".json"):
            try:
                json.load(file)
            except ValueError:
                return "is not valid JSON"
            file.seek(0)
        if remote.sha256 and hashlib.file_digest(file, "sha256").hexdigest() != remote.sha256:
            return f"does not have the sha256 {remote.sha256}"
    return None


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> str:
    """The version of which the part is, if it came from there; else ""."""
    try:
        values = json.loads(_state(part).read_text(encoding="utf-8"))
        return values["version"] if values["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_state(part: Path, url: str, version: str) -> None:
    part.unlink(missing_ok=True)  # before the version is of another file
    temporary = _state(part).with_suffix(".tmp")
    temporary.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
    os.replace(temporary, _state(part))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    lock = part.with_name(f"{part.name}.lock")
    with open(lock, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is downloading {part.with_suffix('')}; wait for it") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _int(value: str | None) -> int | None:
    return int(value) if value and value.isdigit() else None


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


def _unreachable(url: str, failure: str) -> UserError:
    host = urllib.parse.urlsplit(url).netloc
    return UserError(
        f"{url} cannot be downloaded: {failure}. Is this machine connected (behind a proxy, set https_proxy)? Run the "
        f"same command to continue, or give --from a folder or another address than {host}"
    )
