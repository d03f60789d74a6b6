"""Problematic web pages and servers for website.py: one or a few URLs of each kind, with their expected outcomes."""

import asyncio
import urllib.parse
import zlib
from collections import Counter

from helpers.website import Answer, Handler, Site, constant, html, main_text


def _redirect(location: str, status: int = 301, *headers: tuple[str, str]) -> Answer:
    return Answer(status, b"moved", [("Location", location), *headers])


def add_difficulties(site: Site) -> None:
    """Adds a few URLs for every kind of problem; some of them have a host of their own."""
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
    return site.add(host, target, constant(html(number).encode(), "text/html"), expected, text=text)


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
    site.robots("page-robots.test", constant(html(1).encode(), "text/html"))

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
        site.add(host, f"/new/{status}", constant(html(number).encode(), "text/html"), None)
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
    for escaped, sent in (("/caf%C3%A9", "/caf\xc3\xa9"), ("/caf%E9", "/caf\xe9")):  # UTF-8, and not UTF-8
        site.add(host, escaped, constant(cafe, "text/html"), None)
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
    site.add(host, "/picture", constant(png, "text/html"), "wrong_type")
    site.add(host, "/zeros", constant(b"text\0text" * 100, "text/html"), "wrong_type")
    site.add(host, "/pdf", constant(b"%PDF-1.4", "application/pdf"), "wrong_type")
    site.add(host, "/json", constant(b"{}", "application/json"), "wrong_type")
    text = main_text(500_000)
    site.add(host, "/untyped", Answer(body=html(500_000).encode(), headers=[]), "fetched", text=text)
    site.add(host, "/plain", constant(text.encode(), "text/plain; charset=utf-8"), "fetched", text=text)
    site.add(host, "/huge", constant(b"<p>" + b"x" * 3_000_000, "text/html"), "too_large")
    large = html(500_001, text=main_text(500_001) + "\n" + main_text(500_002) * 200)
    site.add(host, "/large", constant(large.encode(), "text/html"), "fetched")

    site.add(host, "/bomb", constant(_bomb(), "text/html", ("Content-Encoding", "gzip")), "too_large")
    site.add(host, "/bad-gzip", constant(b"not gzip", "text/html", ("Content-Encoding", "gzip")), "bad_encoding")
    site.add(host, "/brotli", constant(b"\x0b\x02\x80", "text/html", ("Content-Encoding", "br")), "bad_encoding")
    whole = html(500_003).encode()
    for name, packed in (("zlib", zlib.compress(whole)), ("bare", zlib.compress(whole)[2:-4])):
        handler = constant(packed, "text/html", ("Content-Encoding", "deflate"))
        site.add(host, f"/deflate-{name}", handler, "fetched", text=main_text(500_003))
    site.add(
        host, "/noai", constant(html(1, head='<meta name="robots" content="noai">').encode(), "text/html"), "no_ai"
    )
    site.add(host, "/noarchive", constant(whole, "text/html", ("X-Robots-Tag", "noarchive")), "no_ai")
    handler = constant(whole, "text/html", ("X-Robots-Tag", "otherbot: noai, nofollow"))
    site.add(host, "/not-for-others", handler, "fetched", text=main_text(500_003))


def _bomb() -> bytes:
    """Returns 200 kB of gzip data that decompresses to 200 MB of spaces."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    block = b" " * 1_000_000
    return b"".join(packer.compress(block) for _ in range(200)) + packer.flush()


def _add_servers(site: Site) -> None:
    """Adds servers that violate the protocol, each on its own host, because clients back off from failing hosts."""
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
