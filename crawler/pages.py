"""Pages out of archives: WARC and WET files, tars of pages, folders and single files, one page at a time.

A unit is what one task works on: an archive, or some of the loose files of a folder. What is wrong with one page is
told in its `problem`; where an archive ends before its end, `Damage` is raised after the pages before that place.
"""

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from estimator import invocation, json_text, storage
from estimator.errors import UserError, import_failed

WARCS = (".warc", ".warc.gz", ".wet", ".wet.gz")
TARS = tuple(f"{stem}{suffix}" for stem in ("_data", ".tar") for suffix in (".xz", ".bz2", ".gz"))
TARS += (".tar", ".tgz", ".txz", "_data.tar")
LOOSE = (".html", ".htm", ".xhtml", ".txt")
# Loose files are taken together, so that a unit is worth a task.
LOOSE_FILES = 1000
MAX_PAGE_BYTES = 10_000_000
HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml", "")


Progress = Callable[[int], None]


class Damage(Exception):
    """An archive that cannot be read to its end, and why."""


class Page(NamedTuple):
    """One page: its bytes, and what the archive tells of it.

    id: without a ".". date: when it was fetched, ISO 8601, or "". content_type: of the HTTP header, or "".
    kind: "html", "text", or "" where the bytes must tell. problem: why it cannot be used, or "".
    """

    id: str
    body: bytes = b""
    url: str = ""
    date: str = ""
    content_type: str = ""
    kind: str = ""
    problem: str = ""


class Unit(NamedTuple):
    """The work of one task.

    name: of its result, without a suffix. kind: "warc", "tar" or "loose". bytes: of its files.
    """

    name: str
    kind: str
    paths: tuple[str, ...]
    bytes: int


def units(inputs: Sequence[str]) -> list[Unit]:
    """The units of files, folders and patterns, in the order of the inputs, of the path within a folder.

    Raises UserError for an input that matches nothing and a file that is none of WARCS, TARS and LOOSE.
    """
    found: dict[str, None] = {}
    for entry in inputs:
        paths = (
            [path for match in storage.glob(entry) for path in _files(match)]
            if storage.is_pattern(entry)
            else _files(entry)
        )
        if not paths:
            raise UserError(f"{entry}: no pages here; pages are in files that end with {', '.join(WARCS + LOOSE)}, "
                            "in _data.xz archives and tars")  # fmt: skip
        found.update(dict.fromkeys(paths))
    result: list[Unit] = []
    names: set[str] = set()

    def add(name: str, kind: str, paths: Sequence[str]) -> None:
        unique, number = name, 1
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.add(unique)
        result.append(Unit(unique, kind, tuple(paths), sum(map(storage.size, paths))))

    loose: list[str] = []
    for path in found:
        if (kind := _kind(path)) == "loose":
            loose.append(path)
        else:
            add(_stem(path), kind, [path])
    for at in range(0, len(loose), LOOSE_FILES):
        add(f"pages-{at // LOOSE_FILES:05d}", "loose", loose[at : at + LOOSE_FILES])
    return result


def pages(unit: Unit, *, progress: Progress | None = None) -> Iterator[Page]:
    """Every page of a unit; raises Damage where it ends too early. progress: called with the number of bytes read."""
    tell = progress or (lambda _: None)
    if unit.kind == "warc":
        yield from _warc_pages(unit.paths[0], tell)
    elif unit.kind == "tar":
        yield from _tar_pages(unit.paths[0], tell)
    else:
        done = 0
        for path in unit.paths:
            yield _loose_page(path)
            done += storage.size(path)
            tell(done)


def _files(entry: str) -> list[str]:
    if storage.is_folder(entry):
        listed = [path for path in storage.listing(entry) if not _is_aside("/" + path[len(entry) :])]
        return [path for path in listed if path.endswith(WARCS + TARS + LOOSE)]
    if not storage.exists(entry):
        raise UserError(f"{entry}: no such file or folder; check the spelling of the path")
    return [entry]


def _is_aside(path: str) -> bool:
    """Hidden files, and pages of a download that are not in archives yet (`journal`)."""
    return any(name.startswith(".") for name in path.split("/")) or "/state/spool/" in path


def _kind(path: str) -> str:
    for kind, suffixes in {"warc": WARCS, "tar": TARS, "loose": LOOSE}.items():
        if path.lower().endswith(suffixes):
            return kind
    raise UserError(f"{path}: not a file of pages, which end with {', '.join(WARCS + TARS + LOOSE)}")


def _stem(path: str) -> str:
    name = os.path.basename(path)
    suffix = max((each for each in WARCS + TARS if name.lower().endswith(each)), key=len)
    # RS_2019-01-1_data.xz and files of other months differ in the part before "_data".
    return name[: len(name) - len(suffix)] or "pages"


def page_id(name: str) -> str:
    """As the seeds do it: a file's name up to the first "."."""
    return os.path.basename(name).partition(".")[0]


def _damage(error: Exception) -> Exception:
    """What to raise for an error within an archive; one of the system or of a storage service stays."""
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):
        return error
    return Damage(str(error) or type(error).__name__)


# WARC and WET.


def _warc_pages(path: str, progress: Progress) -> Iterator[Page]:
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError as error:
        raise import_failed(error, f"{path}: WARC files need fastwarc: {invocation.install('data')}") from error
    wanted = WarcRecordType.response | WarcRecordType.conversion
    seen = False
    with storage.open(path) as file:
        try:
            for record in ArchiveIterator(cast(BinaryIO, file), parse_http=False):
                seen = True
                progress(file.tell())
                if record.record_type & wanted:
                    yield _warc_page(record, conversion=bool(record.record_type & WarcRecordType.conversion))
        except OSError as error:
            raise _damage(error) from None
    if not seen:
        raise Damage("no WARC record in it")


def _warc_page(record: Any, *, conversion: bool) -> Page:
    url = record.headers.get("WARC-Target-URI") or ""
    date = (record.headers.get("WARC-Date") or "")[:19]
    identity = (record.record_id or "").strip("<>").rpartition(":")[2] or hashlib.md5(url.encode()).hexdigest()
    page = Page(identity.replace(".", "-"), b"", url, date)
    declared = record.content_length
    if declared > MAX_PAGE_BYTES:
        return page._replace(problem="too_large")
    block = record.reader.read()
    if len(block) < declared or "Content-Length" not in record.headers:
        raise Damage(f"it ends within the record of {url}")
    if conversion:
        return page._replace(body=block, kind="text", content_type="text/plain; charset=utf-8")
    # A separate record, because the iterator continues from the first, and a fault in the response would corrupt it.
    answer = type(record)()
    answer.is_http = True
    answer.set_bytes_content(block)
    try:
        answer.parse_http(auto_decode="all")
        status, headers = answer.http_headers.status_code, answer.http_headers
        content_type = headers.get("Content-Type") or ""
        if status != 200:
            return page._replace(problem="http_status")
        kind = content_type.partition(";")[0].strip().lower()
        if kind not in (*HTML_TYPES, "text/plain"):
            return page._replace(problem="not_a_page")
        body = answer.reader.read(MAX_PAGE_BYTES + 1)
    except (OSError, ValueError, AttributeError):
        return page._replace(problem="unreadable")  # an HTTP header or Content-Encoding that is none
    if len(body) > MAX_PAGE_BYTES:
        return page._replace(problem="too_large")
    return page._replace(body=body, content_type=content_type, kind="text" if kind == "text/plain" else "")


# Tars, such as those of jcpeterson/openwebtext: NAME_data.xz with ID.txt in it, and NAME_meta.xz with ID.json.


def _tar_pages(path: str, progress: Progress) -> Iterator[Page]:
    facts = facts_of(path)
    try:
        with storage.open(path) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                progress(file.tell())
                known = facts.get(page_id(member.name), {})
                page = Page(page_id(member.name), url=str(known.get("url", "")), date=str(known.get("date", "")))
                if member.size > MAX_PAGE_BYTES:
                    yield page._replace(problem="too_large")
                    continue
                content = archive.extractfile(member)
                assert content is not None, member.name
                body = content.read()
                if len(body) < member.size:
                    raise Damage(f"it ends within {member.name}")
                yield page._replace(body=body, content_type=str(known.get("content_type", "")))
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise _damage(error) from None


def facts_of(path: str) -> dict[str, dict[str, Any]]:
    """What NAME_meta.xz tells of the pages of NAME_data.xz, by id; {} where there is none or it is damaged."""
    stem, found, suffix = path.rpartition("_data.")
    metadata = f"{stem}_meta.{suffix}"
    facts: dict[str, dict[str, Any]] = {}
    if not found or not storage.exists(metadata):
        return facts
    try:
        with storage.open(metadata) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                content = archive.extractfile(member)
                values = json_text.loads(content.read()) if content is not None else None
                if isinstance(values, dict):
                    kept = {key: values[key] for key in ("url", "final_url", "date", "content_type") if key in values}
                    facts[page_id(member.name)] = kept
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, ValueError):
        return facts
    return facts


def _loose_page(path: str) -> Page:
    page = Page(page_id(path), kind="html" if path.endswith((".html", ".htm", ".xhtml")) else "")
    if storage.size(path) > MAX_PAGE_BYTES:
        return page._replace(problem="too_large")
    if storage.is_remote(path):
        return page._replace(body=storage.read_bytes(path), url=path)
    return page._replace(body=Path(path).read_bytes())
