"""What a site wishes: robots.txt (RFC 9309), and the words a page says about its own use.

A robots.txt that is not there (4xx) allows everything; one that cannot be read now (5xx, no connection) forbids
everything for now. "Content-Signal: ai-train=no" forbids, as every page is fetched to train on.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Protocol

from estimator import invocation
from estimator.errors import import_failed

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5
MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
PATH = "/robots.txt"
# A page that is not to be kept is not to be put into a corpus either.
REFUSING_WORDS = frozenset(("noai", "noarchive", "none", "noml", "nocache"))
HEAD_BYTES = 64 * 1024
_USER_AGENT = re.compile(r"user[- ]?agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_RULE = re.compile(r"allow|d(?:isallow|issallow|issalow|isalow|iasllow|isallaw)", re.IGNORECASE)
# contentsignals.org and the IETF's AI preferences; with a path they hold below it.
_SIGNAL = re.compile(r"content-(?:signal|usage)\s*:\s*(/\S*)?(.*)", re.IGNORECASE)
_TRAINING = re.compile(r"\b(?:ai-train|train-ai)\s*=\s*(y|n)", re.IGNORECASE)


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
        """body: the response, of which the first MAX_BYTES count, without a truncated last line. agent: our name."""
        try:
            import protego
        except ImportError as error:
            raise import_failed(
                error, f"reading robots.txt needs the package protego: {invocation.install('data')}"
            ) from error
        if len(body) > MAX_BYTES:
            body = body[:MAX_BYTES].rpartition(b"\n")[0]
        lines = _lines_for(agent, body.decode("utf-8-sig", errors="replace").replace("\0", ""))
        self._rules = protego.Protego.parse("\n".join(["User-agent: *", *lines]))
        self._signals = protego.Protego.parse("\n".join(["User-agent: *", *filter(None, map(_signal_rule, lines))]))
        self._agent = agent
        rate = self._rules.request_rate(agent)
        per_request = rate.seconds / rate.requests if rate and rate.requests else 0.0
        self.delay = max(float(self._rules.crawl_delay(agent) or 0.0), float(per_request))

    def allows(self, url: str) -> bool:
        # RFC 9309, 2.2.2: the file of the rules may always be read.
        if urllib.parse.urlsplit(url).path == PATH:
            return True
        return self._rules.can_fetch(url, self._agent) and self._signals.can_fetch(url, self._agent)


def _lines_for(agent: str, text: str) -> list[str]:
    """The lines of the groups for this agent, or of those for all agents where no group names it.

    Groups are formed as in Google's parser (github.com/google/robotstxt): only an Allow or Disallow ends a list of user
    agents, "x/1.0" names x, and "* y" names all.
    """
    ours: list[str] | None = None
    everybody: list[str] = []
    is_ours = is_everybody = ends_list = False
    for line in (line.partition("#")[0].strip() for line in re.split(r"[\r\n]+", text)):
        if found := _USER_AGENT.match(line):
            if ends_list:
                is_ours = is_everybody = ends_list = False
            name = found[1]
            is_everybody |= re.match(r"\*(\s|$)", name) is not None
            if re.split(r"[^A-Za-z_-]", name, maxsplit=1)[0].lower() == agent.lower():
                is_ours, ours = True, ours or []
        else:
            ends_list |= _RULE.match(line) is not None
            if is_ours and ours is not None:
                ours.append(line)
            if is_everybody:
                everybody.append(line)
    return everybody if ours is None else ours


def _signal_rule(line: str) -> str:
    """A Content-Signal or Content-Usage line as the rule that it is for training; empty for other lines."""
    found = _SIGNAL.match(line)
    wish = _TRAINING.search(found[2]) if found else None
    return f"{'Allow' if wish[1].lower() == 'y' else 'Disallow'}: {found[1] or '/'}" if found and wish else ""


def refuses_ai(headers: Mapping[str, str], body: bytes, *, agent: str) -> bool:
    """Whether a page asks not to be used for training or not to be kept.

    Looked at: X-Robots-Tag and <meta name="robots"> (or our own name) with noai, noarchive, ...; the TDM reservation
    protocol's header and meta element; the headers Content-Signal and Content-Usage.
    """
    if headers.get("tdm-reservation", "").strip() == "1":
        return True
    signals = f"{headers.get('content-signal', '')},{headers.get('content-usage', '')}"
    if (wish := _TRAINING.search(signals)) and wish[1].lower() == "n":
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
