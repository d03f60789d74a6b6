"""One request to one address, within limits of time and size that no server can stretch.

Nothing is followed, kept or retried here. The body is decompressed piece by piece, so that a bomb is noticed at the
limit and not after it has filled the memory.
"""

import asyncio
import ssl
import time
import urllib.parse
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, NamedTuple

from crawler import outcomes, sniff, urls
from crawler.addresses import PrivateAddressError, ResolveError, Resolver
from estimator import invocation
from estimator.corpus.containers import COMPRESSED
from estimator.errors import import_failed, is_memory_error

if TYPE_CHECKING:
    import httpx

ACCEPT = "text/html,application/xhtml+xml,text/plain;q=0.8,*/*;q=0.1"
MAX_ADDRESSES = 3
PIECE_BYTES = 1 << 16
FIRST_BYTES = 64  # of a gzip member that zlib is shown at first
GZIP_MAGIC = COMPRESSED["gzip"]
REDIRECTS = (301, 302, 303, 307, 308)
# Of an answer that is no page: enough to keep the connection usable.
UNWANTED_BYTES = 1 << 16

Headers = list[tuple[str, str]]


class Limits(NamedTuple):
    """Seconds and bytes of one request."""

    dns: float = 10.0
    connect: float = 10.0
    read: float = 20.0
    total: float = 60.0
    max_bytes: int = 10_000_000


class Answer(NamedTuple):
    """What a server said. headers: as they came, names as they came; body: decompressed."""

    status: int
    reason: str
    version: str
    headers: Headers
    body: bytes
    received_bytes: int

    def header(self, name: str) -> str:
        """The values of a header, joined by commas; empty where it is missing."""
        return ", ".join(value for key, value in self.headers if key.lower() == name)


class RequestError(Exception):
    """A request without a usable answer. outcome: its name in crawler.outcomes.

    silent: nothing came in the time allowed, though a connection may have been opened.
    """

    def __init__(self, outcome: str, detail: str = "", *, received_bytes: int = 0, silent: bool = False) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.silent = silent
        self.outcome = outcome
        self.detail = detail
        self.received_bytes = received_bytes


class Bandwidth:
    """A limit on the bytes per second of all connections together, kept on average: who comes in debt waits."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._paid_until = 0.0

    def spend(self, size: int) -> None:
        if self._rate:
            self._paid_until = max(self._paid_until, time.monotonic()) + size / self._rate

    def wait_seconds(self) -> float:
        return max(0.0, self._paid_until - time.monotonic()) if self._rate else 0.0


def import_httpx() -> None:
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise import_failed(error, f"downloading needs the package httpx: {invocation.install('data')}") from error


def tls_context() -> ssl.SSLContext:
    """Certificates are checked; reading the authorities takes a while, so all connections share one."""
    import httpx

    return httpx.create_ssl_context()


class Connection:
    """To one host: at most one connection, kept open between requests, reopened after a fault."""

    def __init__(self, resolver: Resolver, *, agent: str, limits: Limits, context: ssl.SSLContext) -> None:
        self._resolver = resolver
        self._limits = limits
        self._context = context
        self._agent = agent
        self._transport: httpx.AsyncHTTPTransport | None = None
        self._address = self._connected_to = ""
        self.opened_at = float("-inf")  # when the host of the connection in use was looked up, time.monotonic

    async def get(self, url: str, *, cookies: str = "", cut_at: int | None = None) -> Answer:
        """The answer to a GET of a cleaned URL; a redirect is an answer, a page that is none or too large an error.

        cut_at: take the first bytes of whatever it is, for robots.txt. Raises RequestError.
        """
        received = [0]
        try:
            async with asyncio.timeout(self._limits.total):
                return await self._get(url, cookies, cut_at, received)
        except TimeoutError:
            await self.close()
            raise RequestError(outcomes.TIMED_OUT, "in all", received_bytes=received[0]) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        transport, self._transport = self._transport, None
        self._connected_to = ""
        if transport is not None:
            await transport.aclose()

    async def _get(self, url: str, cookies: str, cut_at: int | None, received: list[int]) -> Answer:
        parts = urllib.parse.urlsplit(url)
        port = urls.port_of(url)
        began = time.monotonic()
        addresses = [self._address] if self._connected_to == parts.netloc else await self._resolve(parts.hostname, port)
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._get_from(address, port, parts, cookies, cut_at, received, began)
            except RequestError as error:
                last = error
                await self.close()
                if error.outcome != outcomes.CONNECT_FAILED:
                    break
        raise last

    async def _resolve(self, host: str | None, port: int) -> list[str]:
        try:
            return await self._resolver.addresses(host or "", port)
        except PrivateAddressError:
            raise RequestError(outcomes.PRIVATE_ADDRESS) from None
        except (ResolveError, TimeoutError):
            raise RequestError(outcomes.DNS_FAILED) from None

    async def _get_from(
        self,
        address: str,
        port: int,
        parts: urllib.parse.SplitResult,
        cookies: str,
        cut_at: int | None,
        received: list[int],
        began: float,
    ) -> Answer:
        import httpx

        limits = self._limits
        literal = f"[{address}]" if ":" in address else address
        headers = {
            "Host": parts.netloc,
            "User-Agent": self._agent,
            "Accept": ACCEPT,
            "Accept-Language": "*",
            "Accept-Encoding": "gzip, deflate",
        }
        if cookies:
            headers["Cookie"] = cookies
        # The connection goes to the address that was checked, the certificate must be that of the name.
        target = f"{parts.scheme}://{literal}:{port}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        timeout = httpx.Timeout(limits.read, connect=limits.connect, pool=limits.connect).as_dict()
        extensions = {"sni_hostname": parts.hostname, "timeout": timeout}
        # A header gives back the bytes that a server has set in a cookie, which need not be ASCII.
        sent = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        request = httpx.Request("GET", target, headers=sent, extensions=extensions)
        try:
            response = await self._open().handle_async_request(request)
            if self._connected_to != parts.netloc:
                self.opened_at = began
            self._address, self._connected_to = address, parts.netloc
            try:
                return await self._read(response, cut_at, received)
            finally:
                await response.aclose()
        except httpx.ConnectTimeout as error:
            # A handshake of TLS that nobody answers ends here too.
            raise RequestError(outcomes.CONNECT_FAILED, str(error) or "no answer", silent=True) from None
        except httpx.ConnectError as error:
            _raise_memory_error(error)
            tls = isinstance(_root(error), ssl.SSLError)
            raise RequestError(outcomes.TLS_FAILED if tls else outcomes.CONNECT_FAILED, str(error)) from None
        except httpx.TimeoutException as error:
            raise RequestError(outcomes.TIMED_OUT, type(error).__name__, received_bytes=received[0]) from None
        except (RequestError, TimeoutError):
            raise
        except Exception as error:
            # Besides its own errors httpx lets through those of the packages below it (h11, h2, ssl, anyio); what a
            # server sends must not end the download of the others.
            _raise_memory_error(error)
            detail = f"{type(error).__name__}: {error}"
            raise RequestError(outcomes.BROKEN, detail, received_bytes=received[0]) from None

    async def _read(self, response: "httpx.Response", cut_at: int | None, received: list[int]) -> Answer:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        encoding = response.headers.get("content-encoding", "")
        limit = cut_at or self._limits.max_bytes
        wanted = response.status_code == 200
        if not wanted:
            limit, encoding = UNWANTED_BYTES, ""
        elif cut_at is None:
            self._check_headers(response)
        body = bytearray()
        async for piece in decompressed(response.aiter_raw(PIECE_BYTES), encoding, received):
            body += piece
            if len(body) > limit or (not piece and received[0] > limit):
                if wanted and cut_at is None:
                    raise RequestError(outcomes.TOO_LARGE, received_bytes=received[0])
                break
        version = response.extensions.get("http_version", b"HTTP/1.1").decode("ascii")
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        return Answer(response.status_code, reason, version, headers, bytes(body), received[0])

    def _check_headers(self, response: "httpx.Response") -> None:
        """Says no before the body has come."""
        if not sniff.is_text_type(response.headers.get("content-type", "")):
            raise RequestError(outcomes.WRONG_TYPE, response.headers["content-type"])
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.max_bytes:
            raise RequestError(outcomes.TOO_LARGE, f"{length} bytes")

    def _open(self) -> "httpx.AsyncHTTPTransport":
        """The layer below httpx's client, which would look at redirects and cookies, and fail at odd ones."""
        if self._transport is None:
            import httpx

            self._transport = httpx.AsyncHTTPTransport(
                verify=self._context,
                http2=has_http2(),
                # A proxy from the environment would resolve names itself and bypass the address check.
                trust_env=False,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0),
            )
        return self._transport


def has_http2() -> bool:
    """Whether the HTTP/2 package is installed; otherwise HTTP/1.1 is used."""
    try:
        import h2  # noqa: F401
    except ImportError:
        return False
    return True


async def decompressed(raw: AsyncIterator[bytes], encoding: str, received: list[int]) -> AsyncIterator[bytes]:
    """The body in pieces of at most PIECE_BYTES, whatever the compression; counts what came in received[0].

    An empty piece ends the text of what came at a time: bytes may come without text, and count against a limit too.
    Raises RequestError(bad_encoding) for a compression that was not asked for, or is broken.
    """
    names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in ("", "identity")]
    if len(names) > 1 or (names and names[0] not in ("gzip", "x-gzip", "deflate")):
        raise RequestError(outcomes.BAD_ENCODING, encoding)
    unpacker = _Unpacker(names[0]) if names else None
    async for piece in raw:
        received[0] += len(piece)
        if unpacker is None:
            yield piece
            continue
        try:
            for text in unpacker.push(piece):
                yield text
        except zlib.error as error:
            raise RequestError(outcomes.BAD_ENCODING, str(error), received_bytes=received[0]) from None
        yield b""
    if unpacker is not None and unpacker.is_cut_off:
        raise RequestError(outcomes.BROKEN, "compressed body ends early", received_bytes=received[0])


class _Unpacker:
    """Decompresses a body piece by piece; what follows its end is ignored.

    zlib copies the bytes that it leaves over, which at the end of each of many small members would be all the rest.
    So it is shown few bytes of a member at first.
    """

    def __init__(self, name: str) -> None:
        """name: gzip, x-gzip or deflate."""
        self._is_deflate = name == "deflate"
        self._decoder: zlib._Decompress | None = None
        self._rest = b""
        self._is_over = False

    @property
    def is_cut_off(self) -> bool:
        return self._decoder is not None and not self._decoder.eof

    def push(self, piece: bytes) -> Iterator[bytes]:
        """The text that a piece completes. Raises zlib.error."""
        data, self._rest = memoryview(self._rest + piece), b""
        place, shown, is_full = 0, FIRST_BYTES, False
        # A full piece may have left more behind inside the decoder.
        while (place < len(data) or is_full) and not self._is_over:
            if self._decoder is None or self._decoder.eof:
                if self._decoder and data[place:] == GZIP_MAGIC[:1]:
                    self._rest = bytes(data[place:])
                    return
                self._begin(data[place : place + 2])
                shown = FIRST_BYTES
                continue
            part = data[place : place + shown]
            text = self._decoder.decompress(part, PIECE_BYTES)
            place += len(part) - len(self._decoder.unused_data or self._decoder.unconsumed_tail)
            shown = min(2 * shown, PIECE_BYTES)
            is_full = len(text) == PIECE_BYTES and not self._decoder.eof
            if text:
                yield text

    def _begin(self, head: memoryview) -> None:
        """Begins the body or another member (RFC 1952, section 2.2), if these are its first bytes."""
        self._is_over = self._decoder is not None and (self._is_deflate or head != GZIP_MAGIC)
        # "deflate" should be a zlib stream; servers send bare deflate too, which no zlib header begins.
        bare = self._is_deflate and (head[0] & 0x0F) != 8
        if not self._is_over:
            self._decoder = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)


def _raise_memory_error(error: BaseException) -> None:
    """Raises MemoryError where that is the cause, which is no fault of the host: a later start fetches the page."""
    if is_memory_error(_root(error)):
        raise MemoryError(str(error)) from error


def _root(error: BaseException) -> BaseException:
    """The first cause of an error: httpx and httpcore wrap what the socket said."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
