"""WARC records of pages (ISO 28500, version 1.0): written so that the same page gives the same bytes, and read again.

A record is one gzip member. The body stands as text in it, without the compression of the transfer, as in Common Crawl;
headers that would contradict it get the prefix X-Crawl-. Identifiers are made from the URL.
"""

import base64
import hashlib
import uuid
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from crawler.transport import Answer, Headers
from estimator.errors import UserError

VERSION = b"WARC/1.0"
SOURCE = "WARC-Source-URI"  # the URL of the list, where redirects led elsewhere
_OF_THE_TRANSFER = ("content-encoding", "transfer-encoding", "content-length")
_GZIP = zlib.MAX_WBITS | 16
_BLOCK = 1 << 20


class Record(NamedTuple):
    """A page out of an archive. url: of the page; source: of the list; status 0 and no headers for other records."""

    kind: str
    url: str
    source: str
    date: str
    status: int
    headers: Headers
    body: bytes

    @property
    def content_type(self) -> str:
        return ", ".join(value for name, value in self.headers if name.lower() == "content-type")


def response(answer: Answer, *, url: str, source: str, date: str) -> bytes:
    """The compressed record of a page. date: UTC, as 2026-01-31T12:00:00Z."""
    lines = [f"HTTP/1.1 {answer.status} {_one_line(answer.reason)}".rstrip()]
    for name, value in answer.headers:
        prefix = "X-Crawl-" if name.lower() in _OF_THE_TRANSFER else ""
        lines.append(f"{prefix}{_one_line(name)}: {_one_line(value)}")
    lines.append(f"Content-Length: {len(answer.body)}")
    block = "\r\n".join(lines).encode("latin-1", errors="replace") + b"\r\n\r\n" + answer.body
    digest = base64.b32encode(hashlib.sha1(answer.body).digest()).decode("ascii")
    fields = [("WARC-Target-URI", url)] + ([(SOURCE, source)] if source != url else [])
    fields.append(("WARC-Payload-Digest", f"sha1:{digest}"))
    fields.append(("Content-Type", "application/http; msgtype=response"))
    return _member("response", block, fields=fields, identity=source, date=date)


def information(name: str, fields: Headers, *, date: str) -> bytes:
    """The compressed record that a file begins with: who made it and how."""
    block = "".join(f"{key}: {value}\r\n" for key, value in fields).encode("utf-8")
    extra = [("WARC-Filename", name), ("Content-Type", "application/warc-fields")]
    return _member("warcinfo", block, fields=extra, identity=f"warcinfo:{name}:{date}", date=date)


def _member(kind: str, block: bytes, *, fields: Headers, identity: str, date: str) -> bytes:
    first = [("WARC-Type", kind), ("WARC-Record-ID", f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}>")]
    first.append(("WARC-Date", date))
    head = "".join(f"{name}: {value}\r\n" for name, value in [*first, *fields])
    plain = VERSION + b"\r\n" + head.encode("utf-8") + f"Content-Length: {len(block)}\r\n\r\n".encode() + block
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return packer.compress(plain + b"\r\n\r\n") + packer.flush()


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def unpack(member: bytes) -> Record | None:
    """The record in a gzip member; None where the member is damaged or no record."""
    unpacker = zlib.decompressobj(_GZIP)
    try:
        plain = unpacker.decompress(member)
    except zlib.error:
        return None
    return parse(plain) if unpacker.eof and not unpacker.unused_data else None


def parse(plain: bytes) -> Record | None:
    """The record in its uncompressed bytes; None where it is none."""
    head, blank, rest = plain.partition(b"\r\n\r\n")
    version, *lines = head.decode("utf-8", errors="replace").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "")
    if not blank or not version.startswith("WARC/") or not length.isdigit() or len(rest) < int(length):
        return None
    block, kind, url = rest[: int(length)], fields.get("warc-type", ""), fields.get("warc-target-uri", "").strip("<>")
    source, date = fields.get(SOURCE.lower(), url), fields.get("warc-date", "")
    if kind != "response" or not block.startswith(b"HTTP/"):
        return Record(kind, url, source, date, 0, [], block)
    http, _, body = block.partition(b"\r\n\r\n")
    first, *rest_of_head = http.decode("latin-1").split("\r\n")
    status = first.split(" ")[1] if " " in first else ""
    pairs = [line.partition(":") for line in rest_of_head]
    headers = [(name.strip(), value.strip()) for name, _, value in pairs]
    return Record(kind, url, source, date, int(status) if status.isdigit() else 0, headers, body)


def records(file: IO[bytes], *, name: str) -> Iterator[Record]:
    """Every record of a file of gzip members, one at a time. Raises UserError with the offset of a damaged one."""
    offset, rest = 0, b""
    while rest or (rest := file.read(_BLOCK)):
        unpacker = zlib.decompressobj(_GZIP)
        plain, size = bytearray(), 0
        try:
            while not unpacker.eof:
                plain += unpacker.decompress(rest)
                size += len(rest) - len(unpacker.unused_data)
                rest = unpacker.unused_data if unpacker.eof else file.read(_BLOCK)
                if not rest and not unpacker.eof:
                    raise UserError(f"{name}: ends within the record at byte {offset}; copy or make the file again")
        except zlib.error as error:
            raise UserError(f"{name}: damaged at byte {offset} ({error}); copy or make the file again") from None
        record = parse(bytes(plain))
        if record is None:
            raise UserError(f"{name}: no WARC record at byte {offset}; is this a .warc.gz file?")
        yield record
        offset += size
