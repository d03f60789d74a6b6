"""A small simulated internet on one port of 127.0.0.1: thousands of pages on many hosts.

The main text of each page (`Site.text_of`) and the outcome of each listed URL (`Site.expected`) are known, and all
requests are recorded (`Site.requests`). Host names end with .test; clients resolve them with `Site.resolve`.
"""

import asyncio
import gzip
import hashlib
import random
import threading
import time
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
    """A request to the server. Times are from time.monotonic(); `end` is when the response was sent."""

    host: str
    target: str
    start: float
    end: float
    connection: int
    agent: str


@dataclass
class Answer:
    """The response of a URL. `behaviour` replaces the regular response for servers that violate the protocol."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Content-Type", "text/html; charset=utf-8")])
    behaviour: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


Handler = Callable[[str, dict[str, str]], Answer]
Adder = Callable[["Site"], None]


def main_text(number: int) -> str:
    """Returns an article's main text: one paragraph of simple English sentences per line."""
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
    """Returns a page with an article and the usual boilerplate."""
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

    def __init__(self, *, hosts: int = 20, pages_per_host: int = 100, add: "Adder | None" = None) -> None:
        """add: a function that adds more than plain articles, such as difficult_website.add_difficulties."""
        self.requests: list[Request] = []
        self.urls: list[str] = []
        self.expected: list[str] = []  # the expected outcome of each URL
        self.hits: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._robots: dict[str, Handler] = {}
        self._plain = (hosts, pages_per_host, add)
        self._open = 0
        self.most_open: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Site":
        self._thread.start()
        assert self._ready.wait(10)
        hosts, pages, add = self._plain
        self._add_articles(hosts, pages)
        if add:
            add(self)
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
        """Returns arguments for a client that supports curl's --resolve with wildcards."""
        return ["--resolve", f"*.test:{self.port}:127.0.0.1", "--resolve", "*.test:1:127.0.0.1"]

    def text_of(self, url: str) -> str:
        """Returns the main text of the page at a listed URL, with one paragraph per line."""
        return self._texts[url]

    def fetched(self) -> list[str]:
        """Returns the listed URLs that a correct client ends up fetching."""
        return [url for url, outcome in zip(self.urls, self.expected, strict=True) if outcome == "fetched"]

    def at(self, host: str, target: str) -> str:
        return f"http://{host}:{self.port}{target}"

    def add(self, host: str, target: str, handler: Handler | Answer, expected: str | None, *, text: str = "") -> str:
        """Adds a URL to the site, and to the list of URLs if `expected` is given."""
        self._handlers[host, target] = handler if callable(handler) else (lambda target, headers: handler)
        url = self.at(host, target)
        if expected:
            self.listed(url, expected, text=text)
        return url

    def answer(self, host: str, target: str) -> Answer:
        """Returns the response to a first request."""
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

    # --- Server ---

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
        if first == b"\x16":  # a TLS handshake
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
        end = None
        try:
            if answer.behaviour is not None:
                await answer.behaviour(writer)
                return False
            encoded = _encode(answer)
            end = time.monotonic()  # afterwards the client may have the answer long before this thread continues
            writer.write(encoded)
            await writer.drain()
            return True
        finally:
            agent = headers.get("user-agent", "")
            self.requests.append(Request(host, target, start, end or time.monotonic(), number, agent))

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
    """Returns an article in one of several encodings and transfer formats that servers use."""
    kind = number % 12
    if kind == 1:
        text = html(number).replace("library", "biblioth\xe8que")
        return constant(text.encode("latin-1"), "text/html; charset=ISO-8859-1")
    if kind == 2:
        return constant(html(number, head='<meta charset="windows-1252">').encode("cp1252"), "text/html")
    if kind == 3:
        return constant(html(number).encode("utf-16"), "text/html")
    if kind == 4:
        return constant(html(number, malformed=True).encode(), "text/html; charset=utf-8")
    if kind == 5:
        return _compressed(html(number).encode())
    if kind == 6:
        return constant(_chunked(html(number).encode()), "text/html", ("Transfer-Encoding", "chunked"))
    if kind == 7:  # an unknown charset
        return constant(html(number).encode(), "text/html; charset=klingon")
    if kind == 8:
        return constant(html(number).encode(), "application/xhtml+xml; charset=utf-8")
    return constant(html(number).encode(), "text/html; charset=utf-8")


def constant(body: bytes, content_type: str, *headers: tuple[str, str]) -> Handler:
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
