"""Downloads a file over HTTP: resumes it where it was cut off, verifies it, and names it only when it is complete.

huggingface_hub 2.4 does neither: it downloads an interrupted file from its beginning, and checks no sha256. It provides
the user's token.
A file arrives as NAME.part, with its version (ETag or Last-Modified) in NAME.part.json. A part is continued by a range
request for that version only (If-Range); when the server has another version, or ignores ranges, it starts over.
Proxies are taken from the environment, as urllib does.
"""

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from estimator import json_text
from estimator.errors import UserError
from estimator.storage import locks

HUGGING_FACE = "https://huggingface.co"
CHUNK = 1 << 20  # bytes
TIMEOUT, FIRST_TIMEOUT = 60.0, 15.0  # seconds without a byte; before the first byte, for which somebody waits
TRIES, FIRST_TRIES = 8, 4  # in a row that bring nothing new; before the first byte
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds between tries, doubled each time
BUSY = (408, 425, 429, 500, 502, 503, 504)
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<error")
Progress = Callable[[int, int | None], object]


class Remote(NamedTuple):
    """A file on the web. size (bytes), sha256, git_id (hexadecimal; Git's name of a blob): where known."""

    url: str
    size: int | None = None
    sha256: str | None = None
    git_id: str | None = None


class NotThere(UserError):
    """The server has no such file."""


class _Retry(ConnectionError):
    """A failure that may pass; the message names it."""


def listed_file(entry: Mapping[str, Any], url: str) -> Remote:
    """A file of the Hub by its entry in a repository's list: files of Git LFS have a sha256, others Git's own hash."""
    large = entry.get("lfs") or {}
    return Remote(url, entry.get("size"), large.get("oid"), None if large else entry.get("oid"))


def hub_address() -> str:
    """The address of the Hugging Face Hub, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")


def download(
    remote: Remote, path: Path, *, progress: Progress = lambda done, total: None, pause: float = FIRST_PAUSE
) -> bool:
    """Downloads a file to `path`, unless it is there already; returns whether it was downloaded.

    progress: called with the bytes that have arrived and their total. pause: seconds before the second try.
    Raises NotThere when there is no such file, UserError when it cannot be downloaded completely: `path` does not
    exist then, and the part that arrived is kept for the next call unless it is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with locks.exclusive(f"{part}.lock", f"another process is downloading {path}; wait for it", remove=True):
        if path.is_file():
            if problem(path, remote) is None:
                _state(part).unlink(missing_ok=True)  # a kill may have left it
                return False
            path.unlink()
        fault = ""
        for _ in range(2):  # a file that is wrong is fetched again once
            _fetch(remote, part, progress, pause)
            before, fault = fault, problem(part, remote) or ""
            if not fault:
                os.replace(part, path)
                _state(part).unlink(missing_ok=True)
                return True
            _forget(part)
            if fault == before:
                break
    raise UserError(f"{remote.url} {fault}; nothing of it was kept. Try later, or another place with --from")


def problem(path: Path, remote: Remote) -> str | None:
    """The fault of a file that should be whole, or None."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"has {size:,} bytes where {remote.size:,} are expected"
    with open(path, "rb") as file:
        if file.read(64).lstrip().lower().startswith(MARKUP):
            return "is a web page, probably an error message, and not the file"
        file.seek(0)
        if path.name.removesuffix(".part").endswith(".json"):
            try:
                json_text.loads(file.read())
            except ValueError:
                return "is not valid JSON"
            file.seek(0)
        if remote.sha256 and hashlib.file_digest(file, "sha256").hexdigest() != remote.sha256:
            return f"does not have the sha256 {remote.sha256}"
        if remote.git_id:
            blob = hashlib.sha1(b"blob %d\0" % size + file.read(), usedforsecurity=False)
            if blob.hexdigest() != remote.git_id:
                return f"does not have the hash {remote.git_id} that its repository lists"
    return None


def _fetch(remote: Remote, part: Path, progress: Progress, pause: float) -> None:
    """Fills `part` until the server says that it is whole."""
    tries, wait, most = 0, pause, -1
    began = time.monotonic()
    while True:
        try:
            return _receive(remote, part, progress)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:  # of the disk, not of the net
                raise
            failure = _reason(error)
        have = _size(part)
        if have > most:
            tries, wait, most = 0, pause, have
        tries += 1
        is_unanswered = not have and time.monotonic() - began > FIRST_TIMEOUT
        if is_unanswered or tries >= (TRIES if have else FIRST_TRIES):
            host = urllib.parse.urlsplit(remote.url).netloc
            raise UserError(
                f"{remote.url} cannot be downloaded: {failure}. Is this machine connected (behind a proxy, set "
                f"https_proxy)? Run the same command to continue, or give --from a folder or another address than "
                f"{host}"
            )
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_PAUSE)


def _receive(remote: Remote, part: Path, progress: Progress) -> None:
    """One request; _Retry unless the file is whole after it."""
    version = _read_state(part, remote.url)
    have = _size(part) if version else 0
    if have and have == remote.size:
        return
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with _open(remote.url, headers, timeout=TIMEOUT if have else FIRST_TIMEOUT) as response:
        sent = response.headers.get("Content-Range", "")
        if response.status == 416:  # nothing is left to send, or the file is shorter now
            if sent != f"bytes */{have}":
                raise _changed(part)
            progress(have, have)
            return
        _require_content(response, have)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if have and response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", sent)
            if not span or int(span[1]) != have or (_version(response) or version) != version:
                raise _changed(part)
            total = int(span[2]) if span[2] != "*" else None
        else:  # the whole file
            have = 0
            part.unlink(missing_ok=True)  # before the version is of another file
            state = {"url": remote.url, "version": _version(response)}
            # In place: a torn one means an empty part, and a temporary file would outlive a kill.
            _state(part).write_text(json.dumps(state), encoding="utf-8")
        if remote.size is not None and total not in (None, remote.size):
            _forget(part)
            raise _Retry(f"the server says {total:,} bytes, and the file has {remote.size:,}")
        with open(part, "ab") as file:
            while data := response.read1(CHUNK):
                file.write(data)
                have += len(data)
                progress(have, total or remote.size)
        expected = remote.size if total is None else total
        if have < expected if expected is not None else not response.isclosed():
            raise _Retry("the connection was cut")


def _require_content(response: Any, have: int) -> None:
    """Raises _Retry unless the body has bytes of the file: all of them, or of an answer to a range request some."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise _Retry(f"the server sends the file encoded as {coding}, which it was asked not to do")
    if response.status == 206 and not have:
        sent = response.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes 0-(\d+)/(\d+)", sent)
        if not span or int(span[1]) + 1 != int(span[2]):
            raise _Retry(f"the server sends a part of the file ({sent or 'no Content-Range'}) where all was asked for")
    elif response.status not in (200, 203, 206):
        raise _Retry(f"the server answers {response.status} {response.reason} instead of the file")


def _open(url: str, headers: dict[str, str], *, timeout: float) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "gpt2-jax", "Accept-Encoding": "identity", **headers})
    if url.startswith(f"{hub_address()}/"):
        from huggingface_hub import get_token

        if token := get_token():  # for private and gated models; other hosts, to which the Hub redirects, get none
            request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        if error.code in BUSY:
            raise _Retry(f"the server answers {error.code} {error.reason}") from None
        if error.code in (404, 410):
            raise NotThere(f"{url}: there is no such file ({error.code}); it may have moved, try --from") from None
        log_in = " set HF_TOKEN to a token that may read it, or" if error.code in (401, 403) else ""
        raise UserError(
            f"{url}: the server refuses with {error.code} {error.reason};{log_in} try another place with --from"
        ) from None


def _version(response: Any) -> str:
    """The value that If-Range takes: a strong ETag, else the time of the last change; "" when there is neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> str:
    """The version that the part belongs to, if it came from this address; else ""."""
    try:
        values = json_text.loads(_state(part).read_text(encoding="utf-8"))
        return values["version"] if values["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _changed(part: Path) -> _Retry:
    _forget(part)
    return _Retry("the file changed meanwhile")


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
