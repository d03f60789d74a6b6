"""A small internet on one port of 127.0.0.1: thousands of pages on many hosts, and all that makes sites difficult.

Each page has a known main text (`Site.text_of`), each URL of the list a known fate (`Site.expected`), and each request
is written down (`Site.requests`). Names end with .test; a client reaches them with `Site.resolve`.
"""

import asyncio
import gzip
import hashlib
import random
import threading
import time
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"

WORDS = {
    "adjective": "quiet old northern famous narrow wooden patient early bright heavy distant careful local green",
    "noun": "river village teacher engine garden market winter library bridge doctor harbour museum letter forest "
    "painter station mountain kitchen journey orchestra farmer window century newspaper railway island council",
    "verb": "described followed repaired remembered visited painted crossed measured discovered protected changed",
    "place": "beside near behind above below beyond towards across through around",
}
SENTENCE = ("adjective", "noun", "verb", "adjective", "noun", "place", "noun")
FILLER = '<nav><ul><li><a href="/">Home</a></li><li><a href="/news">News</a></li><li>About</li></ul></nav>'


class Request(NamedTuple):
    """One that the server saw. Times are of time.monotonic(); end is when the answer was sent."""

    host: str
    target: str
    start: float
    end: float
    connection: int
    agent: str


@dataclass
class Answer:
    """What a URL gives. The writer sends it; `behaviour` replaces that for servers that do not follow the protocol."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Content-Type", "text/html; charset=utf-8")])
    behaviour: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


Handler = Callable[[str, dict[str, str]], Answer]


def main_text(number: int) -> str:
    """The main text of an article: paragraphs of simple English sentences, one paragraph a line."""
    source = random.Random(number)
    paragraphs = []
    for _ in range(source.randint(4, 7)):
        sentences = []
        for _ in range(source.randint(5, 8)):
            words = [source.choice(WORDS[kind].split()) for kind in SENTENCE]
            sentences.append("The {} {} {} the {} {} {} the {}.".format(*words))
        paragraphs.append(" ".join(sentences))
    return "\n".join(paragraphs)


def html(number: int, *, text: str | None = None, head: str = "", malformed: bool = False) -> str:
    """An article within the usual surroundings."""
    end = "" if malformed else "</p>"
    body = "".join(f"<p>{line}{end}\n" for line in (text or main_text(number)).split("\n"))
    page = (
        f'<!DOCTYPE html><html lang="en"><head><title>Article number {number}</title>{head}'
        "<style>p { margin: 1em }</style><script>var tracker = 'do not read this';</script></head><body>"
        f'<header>{FILLER}</header><div class="cookie-banner">We use cookies. <a href="#">Accept</a></div>'
        f"<main><article><h1>Article number {number}</h1>\n{body}</article></main>"
        '<aside class="sidebar"><a href="/a">Read more</a> <a href="/b">Subscribe now</a></aside>'
        "<footer>Copyright 2026. All rights reserved.</footer></body></html>"
    )
    return page.replace("</article></main>", "<div><b>").replace("</body></html>", "") if malformed else page


class Site:
    """`with Site() as site:` serves until the end of the block."""

    def __init__(self, *, hosts: int = 20, pages_per_host: int = 100, difficult: bool = True) -> None:
        self.requests: list[Request] = []
        self.urls: list[str] = []
        self.expected: list[str] = []  # the outcome of each
        self.hits: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._robots: dict[str, Handler] = {}
        self._plain = (hosts, pages_per_host, difficult)
        self._open = 0
        self.most_open: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Site":
        self._thread.start()
        assert self._ready.wait(10)
        hosts, pages, difficult = self._plain
        self._add_articles(hosts, pages)
        if difficult:
            _add_difficulties(self)
        order = list(range(len(self.urls)))
        random.Random(0).shuffle(order)
        self.urls = [self.urls[i] for i in order]
        self.expected = [self.expected[i] for i in order]
        return self

    def __exit__(self, *exception: object) -> None:
        def stop() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_later(0.1, self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def resolve(self) -> list[str]:
        """Arguments for a client that takes curl's --resolve with patterns."""
        return ["--resolve", f"*.test:{self.port}:127.0.0.1", "--resolve", "*.test:1:127.0.0.1"]

    def text_of(self, url: str) -> str:
        """The main text of the page at a URL of the list, paragraphs apart by newlines."""
        return self._texts[url]

    def fetched(self) -> list[str]:
        """The URLs of the list whose pages a well-behaved client has at the end."""
        return [url for url, outcome in zip(self.urls, self.expected, strict=True) if outcome == "fetched"]

    def at(self, host: str, target: str) -> str:
        return f"http://{host}:{self.port}{target}"

    def add(self, host: str, target: str, handler: Handler | Answer, expected: str | None, *, text: str = "") -> str:
        """Serves something; with `expected` it is put into the list of URLs."""
        self._handlers[host, target] = handler if callable(handler) else (lambda target, headers: handler)
        url = self.at(host, target)
        if expected:
            self.listed(url, expected, text=text)
        return url

    def answer(self, host: str, target: str) -> Answer:
        """What the server says to a first request."""
        return self._find(host, target)(target, {})

    def listed(self, url: str, expected: str, *, text: str = "") -> None:
        self.urls.append(url)
        self.expected.append(expected)
        if text:
            self._texts[url] = text

    def robots(self, host: str, handler: Handler | Answer | str) -> None:
        if isinstance(handler, str):
            handler = Answer(body=handler.encode(), headers=[("Content-Type", "text/plain")])
        self._robots[host] = handler if callable(handler) else (lambda target, headers: handler)

    def _add_articles(self, hosts: int, pages: int) -> None:
        for i in range(hosts):
            self.robots(f"site{i:02d}.test", "User-agent: *\nDisallow: /private/\n")
            for j in range(pages):
                number = i * pages + j
                text = main_text(number)
                target = f"/articles/{number}-{hashlib.md5(text.encode()).hexdigest()[:6]}.html"
                self.add(f"site{i:02d}.test", target, _article(number), "fetched", text=text)

    # --- the server ---

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        number, hosts = self._open, set()
        try:
            while await self._answer_one(reader, writer, number, hosts):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            for host in hosts:
                self._now[host] -= 1
            writer.close()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, hosts: set[str]
    ) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":  # somebody begins with TLS
            writer.write(b"HTTP/1.1 400 Plain HTTP only\r\n\r\n")
            return False
        start = time.monotonic()
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if len(head[0].split(" ")) != 3:
            return False
        target = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        host = headers.get("host", "").partition(":")[0]
        if host not in hosts:
            hosts.add(host)
            self._now[host] += 1
            self.most_open[host] = max(self.most_open[host], self._now[host])
        self.hits[host + target] += 1
        answer = self._find(host, target)(target, headers)
        try:
            if answer.behaviour is not None:
                await answer.behaviour(writer)
                return False
            writer.write(_encode(answer))
            await writer.drain()
            return True
        finally:
            agent = headers.get("user-agent", "")
            self.requests.append(Request(host, target, start, time.monotonic(), number, agent))

    def _find(self, host: str, target: str) -> Handler:
        if target == "/robots.txt":
            return self._robots.get(host, lambda target, headers: Answer(404))
        return self._handlers.get((host, target), lambda target, headers: Answer(404, b"<p>not here</p>"))


def _encode(answer: Answer) -> bytes:
    names = {name.lower() for name, _ in answer.headers}
    headers = [("Date", DATE), ("Server", "small/1"), *answer.headers]
    if "transfer-encoding" not in names and "content-length" not in names:
        headers.append(("Content-Length", str(len(answer.body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {answer.status} Said\r\n{head}\r\n".encode("latin-1") + answer.body


def _article(number: int) -> Handler:
    """An article, in one of the ways in which servers send one."""
    kind = number % 12
    if kind == 1:
        text = html(number).replace("library", "biblioth\xe8que")
        return _constant(text.encode("latin-1"), "text/html; charset=ISO-8859-1")
    if kind == 2:
        return _constant(html(number, head='<meta charset="windows-1252">').encode("cp1252"), "text/html")
    if kind == 3:
        return _constant(html(number).encode("utf-16"), "text/html")
    if kind == 4:
        return _constant(html(number, malformed=True).encode(), "text/html; charset=utf-8")
    if kind == 5:
        return _compressed(html(number).encode())
    if kind == 6:
        return _constant(_chunked(html(number).encode()), "text/html", ("Transfer-Encoding", "chunked"))
    if kind == 7:  # a charset that nobody knows
        return _constant(html(number).encode(), "text/html; charset=klingon")
    if kind == 8:
        return _constant(html(number).encode(), "application/xhtml+xml; charset=utf-8")
    return _constant(html(number).encode(), "text/html; charset=utf-8")


def _constant(body: bytes, content_type: str, *headers: tuple[str, str]) -> Handler:
    return lambda target, seen: Answer(body=body, headers=[("Content-Type", content_type), *headers])


def _chunked(body: bytes) -> bytes:
    pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _compressed(body: bytes) -> Handler:
    def answer(target: str, headers: dict[str, str]) -> Answer:
        if "gzip" not in headers.get("accept-encoding", ""):
            return Answer(body=body)
        sent = [("Content-Type", "text/html; charset=utf-8"), ("Content-Encoding", "gzip")]
        return Answer(body=gzip.compress(body, mtime=0), headers=sent)

    return answer


def _redirect(location: str, status: int = 301, *headers: tuple[str, str]) -> Answer:
    return Answer(status, b"moved", [("Location", location), *headers])


def _add_difficulties(site: Site) -> None:
    """One URL, or a few, of everything that goes wrong out there; some hosts have it all for themselves."""
    _add_robots(site)
    _add_redirects(site)
    _add_refusals(site)
    _add_bodies(site)
    _add_servers(site)
    first = next(url for url in site.urls if url.startswith("http://site"))
    host = urllib.parse.urlsplit(first)
    site.listed(first + "#part", "duplicate_url")
    site.listed(first + "?utm_source=feed&fbclid=1", "duplicate_url")
    site.listed(f"HTTP://{host.netloc.upper()}{host.path}", "duplicate_url")
    site.listed(f"http://{host.netloc}/./x/..{host.path}", "duplicate_url")
    for bad in (
        "ftp://site00.test/file",
        "javascript:alert(1)",
        "no url at all",
        "http://",
        "http://user:x@site00.test/",
    ):
        site.listed(bad, "invalid_url")
    site.listed(site.at("site00.test", "/photo.jpg"), "blocked")
    site.listed(site.at("site00.test", "/report.PDF?page=1"), "blocked")


def _page(site: Site, host: str, target: str, expected: str = "fetched") -> str:
    number = 100_000 + len(site.urls)
    text = main_text(number)
    return site.add(host, target, _constant(html(number).encode(), "text/html"), expected, text=text)


def _add_robots(site: Site) -> None:
    site.robots("closed.test", "User-agent: *\nDisallow: /\n")
    site.robots("partly.test", "User-agent: *\nAllow: /private/open\nDisallow: /private\nCrawl-delay: 0.2\n")
    site.robots(
        "ours.test", "User-agent: *\nDisallow: /\n\nUser-agent: openwebtext-downloader\nDisallow: /not-for-us\n"
    )
    site.robots("error.test", Answer(500))
    site.robots("forbidden-robots.test", Answer(403))
    huge = "User-agent: *\nDisallow: /no\n" + "# padding\n" * 60_000 + "Disallow: /\n"
    site.robots("huge.test", huge)
    site.robots("moved-robots.test", _redirect(site.at("closed.test", "/robots.txt")))
    site.robots("patient.test", "User-agent: *\nCrawl-delay: 1000\n")
    site.robots("page-robots.test", _constant(html(1).encode(), "text/html"))

    def at_second_attempt(target: str, headers: dict[str, str]) -> Answer:
        return (
            Answer(503) if site.hits["waking.test/robots.txt"] < 2 else Answer(body=b"User-agent: *\nDisallow: /no\n")
        )

    site.robots("waking.test", at_second_attempt)
    for i in range(5):
        _page(site, "closed.test", f"/{i}", "forbidden_by_robots")
        _page(site, "partly.test", f"/private/{i}", "forbidden_by_robots")
        _page(site, "partly.test", f"/open/{i}")
        _page(site, "error.test", f"/{i}", "robots_unreachable")
    _page(site, "partly.test", "/private/open")
    _page(site, "ours.test", "/for-us")
    _page(site, "ours.test", "/not-for-us", "forbidden_by_robots")
    _page(site, "forbidden-robots.test", "/page")
    _page(site, "huge.test", "/yes")
    _page(site, "huge.test", "/no/page", "forbidden_by_robots")
    _page(site, "moved-robots.test", "/page", "forbidden_by_robots")
    _page(site, "patient.test", "/page", "crawl_delay_too_long")
    _page(site, "page-robots.test", "/page")
    _page(site, "waking.test", "/yes")
    _page(site, "waking.test", "/no", "forbidden_by_robots")


def _add_redirects(site: Site) -> None:
    host = "moves.test"
    for status in (301, 302, 303, 307, 308):
        number = 200_000 + status
        site.add(host, f"/new/{status}", _constant(html(number).encode(), "text/html"), None)
        site.add(host, f"/old/{status}", _redirect(f"../new/{status}", status), "fetched", text=main_text(number))
    target = _page(site, "elsewhere.test", "/page")
    site.add(host, "/abroad", _redirect(target), "duplicate_page")
    site.add(host, "/into-closed", _redirect(site.at("closed.test", "/secret")), "forbidden_by_robots")
    site.add(host, "/loop/a", _redirect("/loop/b"), "redirect_loop")
    site.add(host, "/loop/b", _redirect("/loop/a"), "redirect_loop")
    site.add(host, "/self", _redirect("/self"), "redirect_loop")
    for i in range(15):
        site.add(host, f"/far/{i}", _redirect(f"/far/{i + 1}"), "too_many_redirects" if i == 0 else None)
    site.add(host, "/to-loopback", _redirect(f"http://127.0.0.1:{site.port}/secret"), "private_address")
    site.add(host, "/to-localhost", _redirect(f"http://localhost:{site.port}/secret"), "private_address")
    site.add(host, "/to-mapped", _redirect(f"http://[::ffff:127.0.0.1]:{site.port}/secret"), "private_address")
    site.add(host, "/to-metadata", _redirect("http://169.254.169.254/latest/meta-data/"), "private_address")
    site.listed(f"http://127.0.0.1:{site.port}/secret", "private_address")
    site.add(host, "/to-nowhere", _redirect("ftp://moves.test/file"), "bad_redirect")
    site.add(host, "/without-location", Answer(302), "bad_redirect")
    site.add(host, "/to-photo", _redirect("/photo.jpg"), "blocked")

    def wall(target: str, headers: dict[str, str]) -> Answer:
        if "seen=1" in headers.get("cookie", ""):
            return Answer(body=html(300_000).encode())
        return _redirect("/wall", 302, ("Set-Cookie", "seen=1; Path=/"))

    site.add(host, "/wall", wall, "fetched", text=main_text(300_000))
    number = 200_001
    cafe = html(number).encode()
    for escaped, sent in (("/caf%C3%A9", "/caf\xc3\xa9"), ("/caf%E9", "/caf\xe9")):  # UTF-8, and what is none
        site.add(host, escaped, _constant(cafe, "text/html"), None)
        site.add(host, f"/to{escaped}", _redirect(sent), "fetched", text=main_text(number))

    def wall_of_bytes(target: str, headers: dict[str, str]) -> Answer:
        if "seen=\xc3\xa9" in headers.get("cookie", ""):
            return Answer(body=html(300_001).encode())
        return _redirect("/wall-of-bytes", 302, ("Set-Cookie", "seen=\xc3\xa9; Path=/"), ("X-Name", "\xe9"))

    site.add(host, "/wall-of-bytes", wall_of_bytes, "fetched", text=main_text(300_001))
    walls = Counter()

    def endless_wall(target: str, headers: dict[str, str]) -> Answer:
        walls[target] += 1
        return _redirect("/endless-wall", 302, ("Set-Cookie", f"seen={walls[target]}; Path=/"))

    site.add(host, "/endless-wall", endless_wall, "too_many_redirects")


def _add_refusals(site: Site) -> None:
    host = "moody.test"
    site.add(host, "/gone", Answer(410), "not_found")
    site.listed(site.at(host, "/never-was"), "not_found")
    for status in (401, 403, 418, 451):
        site.add(host, f"/{status}", Answer(status, b"<p>no</p>"), "refused")
    site.add(host, "/always-500", Answer(500), "server_error")
    never = "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT"
    site.add(host, "/odd-date", Answer(500, b"", [("Retry-After", never), ("Date", never)]), "server_error")
    site.add(host, "/nothing", Answer(204), "empty")
    site.add(host, "/blank", Answer(200, b"  \n"), "empty")
    site.add(host, "/come-back-next-year", Answer(200, html(1).encode()), None)

    def after(attempts: int, number: int, first: Answer) -> Handler:
        def answer(target: str, headers: dict[str, str]) -> Answer:
            if site.hits[host + target] <= attempts:
                return first
            return Answer(body=html(number).encode())

        return answer

    for i, first in enumerate(
        (
            Answer(429, b"slow down", [("Retry-After", "1")]),
            Answer(503, b"later", [("Retry-After", "Thu, 01 Jan 2026 00:00:01 GMT")]),
            Answer(429),
            Answer(502),
        )
    ):
        text = main_text(400_000 + i)
        site.add(host, f"/later/{i}", after(1, 400_000 + i, first), "fetched", text=text)
    site.add("strict.test", "/always-429", Answer(429), "rate_limited")
    site.add("asleep.test", "/a", Answer(503, b"", [("Retry-After", "86400")]), "server_error")


def _add_bodies(site: Site) -> None:
    host = "bodies.test"
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
    site.add(host, "/picture", _constant(png, "text/html"), "wrong_type")
    site.add(host, "/zeros", _constant(b"text\0text" * 100, "text/html"), "wrong_type")
    site.add(host, "/pdf", _constant(b"%PDF-1.4", "application/pdf"), "wrong_type")
    site.add(host, "/json", _constant(b"{}", "application/json"), "wrong_type")
    text = main_text(500_000)
    site.add(host, "/untyped", Answer(body=html(500_000).encode(), headers=[]), "fetched", text=text)
    site.add(host, "/plain", _constant(text.encode(), "text/plain; charset=utf-8"), "fetched", text=text)
    site.add(host, "/huge", _constant(b"<p>" + b"x" * 3_000_000, "text/html"), "too_large")
    large = html(500_001, text=main_text(500_001) + "\n" + main_text(500_002) * 200)
    site.add(host, "/large", _constant(large.encode(), "text/html"), "fetched")

    site.add(host, "/bomb", _constant(_bomb(), "text/html", ("Content-Encoding", "gzip")), "too_large")
    site.add(host, "/bad-gzip", _constant(b"not gzip", "text/html", ("Content-Encoding", "gzip")), "bad_encoding")
    site.add(host, "/brotli", _constant(b"\x0b\x02\x80", "text/html", ("Content-Encoding", "br")), "bad_encoding")
    whole = html(500_003).encode()
    for name, packed in (("zlib", zlib.compress(whole)), ("bare", zlib.compress(whole)[2:-4])):
        handler = _constant(packed, "text/html", ("Content-Encoding", "deflate"))
        site.add(host, f"/deflate-{name}", handler, "fetched", text=main_text(500_003))
    site.add(
        host, "/noai", _constant(html(1, head='<meta name="robots" content="noai">').encode(), "text/html"), "no_ai"
    )
    site.add(host, "/noarchive", _constant(whole, "text/html", ("X-Robots-Tag", "noarchive")), "no_ai")
    handler = _constant(whole, "text/html", ("X-Robots-Tag", "otherbot: noai, nofollow"))
    site.add(host, "/not-for-others", handler, "fetched", text=main_text(500_003))


def _bomb() -> bytes:
    """200 MB of blanks in 200 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    block = b" " * 1_000_000
    return b"".join(packer.compress(block) for _ in range(200)) + packer.flush()


def _add_servers(site: Site) -> None:
    """Servers that break the protocol, each on a host of its own, because a client pauses at a host that fails."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"\r\n")
        while True:
            writer.write(b"<p>again and again</p>\n" * 1000)
            await writer.drain()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def drip_headers(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"X")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def reset(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"Content-Length: 1000\r\n\r\n<p>half of")
        await writer.drain()
        writer.transport.abort()

    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"Content-Length: 1000\r\n\r\n<p>less than that</p>")
        await writer.drain()

    async def no_http(writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()

    async def closed(writer: asyncio.StreamWriter) -> None:
        writer.close()

    for name, behaviour, expected in (
        ("endless", endless, "too_large"),
        ("drip", drip, "timed_out"),
        ("drip-headers", drip_headers, "timed_out"),
        ("silent", silent, "timed_out"),
        ("reset", reset, "broken"),
        ("short", short, "broken"),
        ("no-http", no_http, "broken"),
        ("hang-up", closed, "broken"),
    ):
        site.add(f"{name}.test", "/page", Answer(behaviour=behaviour), expected)
    site.listed("http://nobody-there.test:1/page", "connect_failed")
    site.listed(f"https://plain.test:{site.port}/page", "tls_failed")
