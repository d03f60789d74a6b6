"""What a site wishes: robots.txt (RFC 9309), and the words a page says about its own use.

A robots.txt that is not there (4xx) allows everything; one that cannot be read now (5xx, no connection) forbids
everything for now.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Protocol

from runtime.errors import UserError

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5
MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
PATH = "/robots.txt"
# A page that is not to be kept is not to be put into a corpus either.
REFUSING_WORDS = frozenset(("noai", "noarchive", "none", "noml", "nocache"))
HEAD_BYTES = 64 * 1024


class Rules(Protocol):
    """What a robots.txt says to one user agent."""

    delay: float

    def allows(self, url: str) -> bool: ...


class AllowAll:
    """The rules of a site without a robots.txt."""

    delay = 0.0

    def allows(self, url: str) -> bool:
        return True


class ParsedRules:
    """The rules of a robots.txt."""

    def __init__(self, body: bytes, *, agent: str) -> None:
        """body: what came, of which the first MAX_BYTES count, but for a line that they cut. agent: our name."""
        try:
            import protego
        except ImportError:
            raise UserError(
                "reading robots.txt needs the package protego: pip install -r requirements-data.txt"
            ) from None
        if len(body) > MAX_BYTES:
            body = body[:MAX_BYTES].rpartition(b"\n")[0]
        self._rules = protego.Protego.parse(body.decode("utf-8-sig", errors="replace").replace("\0", ""))
        self._agent = agent
        rate = self._rules.request_rate(agent)
        per_request = rate.seconds / rate.requests if rate and rate.requests else 0.0
        self.delay = max(float(self._rules.crawl_delay(agent) or 0.0), float(per_request))

    def allows(self, url: str) -> bool:
        # RFC 9309, 2.2.2: the file of the rules may always be read.
        return urllib.parse.urlsplit(url).path == PATH or self._rules.can_fetch(url, self._agent)


def refuses_ai(headers: Mapping[str, str], body: bytes, *, agent: str) -> bool:
    """Whether a page asks not to be used for training or not to be kept.

    Looked at: X-Robots-Tag and <meta name="robots"> (or our own name) with noai, noarchive, ...; the TDM reservation
    protocol's header and meta element.
    """
    if headers.get("tdm-reservation", "").strip() == "1":
        return True
    if _refusing(headers.get("x-robots-tag", ""), agent=agent):
        return True
    parser = _MetaParser()
    # The parser gives up so on <![ and a word that it does not know; what stood before has been found.
    with contextlib.suppress(AssertionError):
        parser.feed(body[:HEAD_BYTES].decode("latin-1"))
    for name, content in parser.found:
        if name in ("robots", agent.lower()) and _refusing(content, agent=agent):
            return True
        if name == "tdm-reservation" and content.strip() == "1":
            return True
    return False


def _refusing(words: str, *, agent: str) -> bool:
    """Whether one of the directives is a refusal; those of another agent (`otherbot: noai`) are not ours."""
    whose = ""
    for directive in words.lower().split(","):
        name, colon, rest = directive.partition(":")
        # unavailable_after and max-snippet have values after their colon; everything else before a colon is an agent.
        if colon and not re.match(r"\s*(unavailable_after|max-)", name):
            whose, directive = name.strip(), rest
        if whose in ("", agent.lower()) and directive.strip() in REFUSING_WORDS:
            return True
    return False


class _MetaParser(HTMLParser):
    """Collects the name and content of the meta elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta":
            values = {name: value or "" for name, value in attrs}
            self.found.append((values.get("name", "").strip().lower(), values.get("content", "")))

    handle_startendtag = handle_starttag
