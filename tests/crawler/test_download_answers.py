"""Handling of server responses: robots.txt, delays, bodies, records, and certificates."""

import asyncio
import datetime
import errno
import gzip
import io
import random
import ssl
import tracemalloc
import uuid
import zlib
from pathlib import Path

import pytest
from helpers.website import DATE

pytest.importorskip("httpx", reason="downloading needs requirements-data.txt")
pytest.importorskip("protego", reason="downloading needs requirements-data.txt")

from crawler import outcomes, robots, warc
from crawler.addresses import Resolver, parse_override
from crawler.hosts import retry_after
from crawler.transport import Answer as Said
from crawler.transport import Connection, Limits, RequestError, decompressed, tls_context
from estimator.errors import UserError

# --- robots.txt, delays, bodies, records ---


def test_robots_rules():
    text = b"\xef\xbb\xbfUser-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.php$\nCrawl-delay: 2\n"
    rules = robots.ParsedRules(text, agent="somebody")
    assert [
        rules.allows(f"http://x.example{path}") for path in ("/a", "/a/b", "/x.php", "/x.php?y", "/robots.txt")
    ] == [*(False, True, False, True, True)]
    assert rules.delay == 2.0
    cut = b"User-agent: *\n" + b"#" * robots.MAX_BYTES + b"\nDisallow: /\n"
    assert robots.ParsedRules(cut, agent="somebody").allows("http://x.example/")
    assert robots.ParsedRules(b"\0\xff<html>", agent="somebody").allows("http://x.example/")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("User-agent: us/1.0\nDisallow: /", False),
        ("User-agent: US\nDisallow: /", False),
        ("User-agent: * y\nDisallow: /", False),
        ("User-agent: us\nFoo: bar\nUser-agent: other\nDisallow: /", False),
        ("User-agent: us\nCrawl-delay: 1\nUser-agent: other\nDisallow: /", False),
        ("User-agent: us\nDisallow: /a\n\nUser-agent: us\nDisallow: /x", False),
        ("User-agent: us\rDisallow: /\r", False),
        ("User-agent: *\nDisallow: /\nUser-agent: us\nAllow: /", True),
        ("User-agent: us\nDisallow:\nUser-agent: *\nDisallow: /", True),
        ("User-agent: u\nDisallow: /", True),
        ("User-agent: *y\nDisallow: /", True),
        ("Disallow: /\nUser-agent: us\nAllow: /", True),
        ("User-agent: *\nContent-Signal: search=yes,ai-train=no\nAllow: /", False),
        ("User-agent: *\nAllow: /\nContent-Usage: train-ai=n", False),
        ("User-agent: *\nContent-Signal: /x ai-train=no", False),
        ("User-agent: *\nContent-Signal: /y ai-train=no", True),
        ("User-agent: *\nContent-Signal: search=no, ai-train=yes", True),
        ("User-agent: *\nContent-Signal: ai-train=no\nUser-agent: other\nDisallow: /y", False),
    ],
)
def test_groups_of_robots_are_those_of_googles_parser_and_signals_count(text: str, allowed: bool):
    """Cases from robots_test.cc of github.com/google/robotstxt, and from contentsignals.org."""
    assert robots.ParsedRules(text.encode(), agent="us").allows("http://site.example/x") is allowed


@pytest.mark.parametrize(
    ("headers", "body", "refused"),
    [
        ({"x-robots-tag": "noindex, noai"}, "", True),
        ({"x-robots-tag": "otherbot: noai"}, "", False),
        ({"x-robots-tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noarchive"}, "", True),
        ({"tdm-reservation": "1"}, "", True),
        ({"content-signal": "search=yes, ai-train=no"}, "", True),
        ({"content-usage": "train-ai=y"}, "", False),
        ({}, '<META CONTENT="NOAI, nofollow" NAME="Robots">', True),
        ({}, "<meta name=robots content=noarchive />", True),
        ({}, '<meta name="us" content="noai">', True),
        ({}, '<meta name="robots" content="noindex">', False),
        ({}, '<!-- <meta name="robots" content="noai"> -->', False),
        ({}, "<p>robots noai", False),
        ({}, "<meta name=robots content=noai><![endless[", True),
    ],
)
def test_wishes_of_pages(headers: dict[str, str], body: str, refused: bool):
    assert robots.refuses_ai(headers, body.encode(), agent="us") is refused


def said(*headers: tuple[str, str]) -> Said:
    return Said(503, "", "HTTP/1.1", list(headers), b"", 0)


def test_pauses_that_servers_ask_for():
    assert retry_after(said(("Retry-After", "120"))) == 120
    assert retry_after(said(("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT"), ("Date", DATE))) == 60
    assert retry_after(said(("Retry-After", DATE))) == 0  # a date in the past
    assert retry_after(said(("Retry-After", "soon"))) is None
    assert retry_after(said()) is None
    assert retry_after(said(("Retry-After", "9" * 50))) > 1e8
    never = "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT"
    assert retry_after(said(("Retry-After", never))) is None
    assert retry_after(said(("Retry-After", DATE), ("Date", never))) == 0


def test_a_bomb_is_unpacked_no_further_than_asked():
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(100)) + packer.flush()

    async def first_megabyte() -> int:
        async def raw():
            yield bomb

        size = 0
        async for piece in decompressed(raw(), "gzip", [0]):
            size += len(piece)
            if size > 1_000_000:
                break
        return size

    tracemalloc.start()
    assert asyncio.run(first_megabyte()) < 1_100_000
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", ""])
def test_bodies_are_unpacked_whatever_the_pieces(encoding: str):
    text = random.Random(0).randbytes(200_000) + b"\0" * 300_000
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text)}.get(encoding, text)

    async def unpack(data: bytes, size: int) -> bytes:
        async def raw():
            for start in range(0, len(data), size):
                yield data[start : start + size]

        return b"".join([piece async for piece in decompressed(raw(), encoding, [0])])

    for size in (1000, 70_001, len(packed)):
        assert asyncio.run(unpack(packed, size)) == text
    if encoding in ("gzip", "deflate"):
        with pytest.raises(RequestError, match="broken"):
            asyncio.run(unpack(packed[:-20], 5000))


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("end", [b"", b"\0\0\0", b"<!-- cached -->", b"\x1f"])
def test_a_body_of_several_gzip_members_is_read_to_its_end(size: int, end: bytes):
    """RFC 1952, section 2.2: members follow each other; other bytes after the last are no part of the text."""
    parts = [b"first ", b"", random.Random(1).randbytes(3000) + b"\0" * 200_000]
    data = b"".join(map(gzip.compress, parts)) + end

    async def unpack() -> bytes:
        async def raw():
            for start in range(0, len(data), size):
                yield data[start : start + size]

        return b"".join([piece async for piece in decompressed(raw(), "gzip", [0])])

    assert asyncio.run(unpack()) == b"".join(parts)


@pytest.mark.parametrize("member", [b"", b"a", b"text " * 5000])
def test_the_work_on_a_body_of_many_gzip_members_grows_with_its_size(member: bytes, monkeypatch: pytest.MonkeyPatch):
    """zlib copies what it is shown and leaves over, so what it is shown in all is the work."""
    make, shown = zlib.decompressobj, 0

    class Counted:
        def __init__(self, *arguments: int) -> None:
            self.made = make(*arguments)

        def __getattr__(self, name: str) -> object:
            return getattr(self.made, name)

        def decompress(self, data: bytes, *arguments: int) -> bytes:
            nonlocal shown
            shown += len(data)
            return self.made.decompress(data, *arguments)

    packed = gzip.compress(member, mtime=0) * 2000

    async def raw():
        yield packed

    async def unpack() -> list[bytes]:
        return [piece async for piece in decompressed(raw(), "gzip", [0])]

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    pieces = asyncio.run(unpack())
    assert b"".join(pieces) == member * 2000
    assert shown < 5 * len(packed)
    assert len(pieces) < 2 + 2000 * len(member)


PAGE = gzip.compress(b"<p>hi")


@pytest.mark.parametrize(
    ("body", "text", "is_too_large"),
    [
        (PAGE, b"<p>hi", False),
        (PAGE + bytes(1000 - len(PAGE)), b"<p>hi", False),
        (PAGE + bytes(1001 - len(PAGE)), b"<p>hi", True),
        (PAGE + gzip.compress(b"") * 100, b"<p>hi", True),
        (gzip.compress(b"x" * 1000), b"x" * 1000, False),
        (gzip.compress(b"x" * 1001), b"x" * 1001, True),
    ],
    ids=["page", "1000 bytes", "1001 bytes", "empty members", "1000 of text", "1001 of text"],
)
def test_bytes_that_came_count_against_the_limit_as_text_does(body: bytes, text: bytes, is_too_large: bool):
    import httpx

    async def raw():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async def read(cut_at: int | None) -> Said:
        connection = Connection(Resolver(), agent="us", limits=Limits(max_bytes=1000), context=tls_context())
        headers = {"content-type": "text/html", "content-encoding": "gzip"}
        return await connection._read(httpx.Response(200, headers=headers, content=raw()), cut_at, [0])

    if is_too_large:
        with pytest.raises(RequestError, match="too_large"):
            asyncio.run(read(None))
    else:
        answer = asyncio.run(read(None))
        assert (answer.body, answer.received_bytes) == (text, len(body))
    assert asyncio.run(read(1000)).body == text


def test_records_are_read_back_and_damage_is_named(tmp_path: Path):
    answer = Said(
        200, "OK", "HTTP/2", [("Content-Type", "text/html"), ("Content-Encoding", "gzip")], b"<p>\r\n\r\nx", 5
    )
    members = [
        warc.response(answer, url=f"http://x.example/{i}", source=f"http://l.example/{i}", date="2026-01-01T00:00:00Z")
        for i in range(3)
    ]
    found = list(warc.records(io.BytesIO(b"".join(members)), name="x"))
    assert [record.source for record in found] == [f"http://l.example/{i}" for i in range(3)]
    assert found[1].url == "http://x.example/1"
    assert found[1].body == answer.body
    assert ("X-Crawl-Content-Encoding", "gzip") in found[1].headers
    head = gzip.decompress(members[0]).decode()
    assert f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'http://l.example/0')}>" in head
    assert warc.unpack(members[0][:-1]) is None
    assert warc.unpack(b"") is None
    with pytest.raises(UserError, match=f"ends within the record at byte {len(members[0])}"):
        list(warc.records(io.BytesIO(members[0] + members[1][:-3]), name="x"))


# --- TLS and HTTP/2 ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns a self-signed certificate for right.test."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes a certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "right.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("right.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *encoding))
    return certificate, secret


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_certificates_are_those_of_the_name_and_not_of_the_address(certificate: tuple[Path, Path], protocol: str):
    pytest.importorskip("h2", reason="a server of HTTP/2")
    import h2.config
    import h2.connection
    import h2.events

    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen.append(next(line for line in head.split("\r\n") if line.startswith("Host:")).partition(": ")[2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\n<p>hi")
            await writer.drain()
            return
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        server.initiate_connection()
        writer.write(server.data_to_send())
        while data := await reader.read(65536):
            for event in server.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    seen.append(dict(event.headers)[":authority"])
                    server.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/html")])
                    server.send_data(event.stream_id, b"<p>hi", end_stream=True)
            writer.write(server.data_to_send())
        writer.close()

    async def fetch() -> None:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(*certificate)
        serving.set_alpn_protocols([protocol])
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        resolver = Resolver(overrides=[parse_override(f"*.test:{port}:127.0.0.1")])
        trusting = ssl.create_default_context(cafile=str(certificate[0]))

        def connection(context: ssl.SSLContext) -> Connection:
            return Connection(resolver, agent="us/1.0", limits=Limits(total=5), context=context)

        right = connection(trusting)
        for _ in range(2):
            answer = await right.get(f"https://right.test:{port}/")
            assert answer.body == b"<p>hi"
            assert answer.version == ("HTTP/2" if protocol == "h2" else "HTTP/1.1")
            if protocol != "h2":
                await right.close()
        await right.close()
        for host, context in (("wrong.test", trusting), ("right.test", tls_context())):
            with pytest.raises(RequestError, match="tls_failed"):
                await connection(context).get(f"https://{host}:{port}/")
        assert seen == [f"right.test:{port}"] * 2
        server.close()

    asyncio.run(fetch())


def test_an_address_that_changes_between_the_check_and_the_connection_gains_nothing():
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected = []

    async def fetch() -> None:
        resolver = Resolver(look_up=lambda host, port: answers.pop(0))
        connection = Connection(resolver, agent="us/1.0", limits=Limits(connect=0.2), context=tls_context())

        async def noted(address: str, *rest: object) -> Said:
            connected.append(address)
            raise RequestError(outcomes.CONNECT_FAILED)

        connection._get_from = noted  # type: ignore[method-assign]
        for outcome in ("connect_failed", "private_address"):
            with pytest.raises(RequestError, match=outcome):
                await connection.get("http://rebinding.example/")

    asyncio.run(fetch())
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize("kind", ["tls", "socket", "python", "words of a server"])
def test_a_lack_of_memory_is_no_fault_of_the_host(kind: str, monkeypatch: pytest.MonkeyPatch):
    import httpx

    class Starved:
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if kind == "python":
                raise MemoryError
            if kind == "words of a server":
                raise httpx.RemoteProtocolError("illegal status line: bytearray(b'HTTP/1.1 malloc failure')")
            cause = ssl.SSLError("[EVP] malloc failure (_ssl.c:3098)") if kind == "tls" else OSError(errno.ENOMEM, "no")
            raise (httpx.ConnectError if kind == "tls" else httpx.ReadError)(str(cause)) from cause

        async def aclose(self) -> None:
            pass

    async def get() -> None:
        connection = Connection(Resolver(), agent="us", limits=Limits(), context=tls_context())
        monkeypatch.setattr(connection._resolver, "addresses", addresses)
        monkeypatch.setattr(connection, "_open", Starved)
        await connection.get("https://a.test/page")

    async def addresses(host: str, port: int) -> list[str]:
        return ["192.0.2.1"]

    with pytest.raises(RequestError if kind == "words of a server" else MemoryError):
        asyncio.run(get())
