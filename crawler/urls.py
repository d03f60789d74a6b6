"""Canonical URLs, and lists of URLs that are never fetched.

Two URLs that differ only in what RFC 3986 calls equivalent, in a fragment, or in parameters that only track readers are
the same page; `clean` maps them to the same string.
"""

import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from estimator.errors import UserError

MAX_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
TRACKING = re.compile(
    r"(utm_[a-z_]+|fbclid|gclid|gclsrc|dclid|gbraid|wbraid|msclkid|yclid|igshid|igsh|mc_cid|mc_eid|mkt_tok|_ga|_gl"
    r"|_hsenc|_hsmi|vero_id|oly_anon_id|oly_enc_id|twclid|ttclid|li_fat_id|s_cid|wt_mc|ncid|cmpid|rb_clickid)",
    re.IGNORECASE,
)
# Files that are no pages, by the end of the path.
_BINARY = (
    ".3gp .7z .aac .apk .asf .avi .avif .bin .bmp .bz2 .css .deb .dmg .doc .docx .eot .eps .epub .exe .flac "
    ".flv .gif .gifv .gz .heic .ico .iso .jar .jpeg .jpg .js .json .m4a .m4v .mid .mkv .mov .mp3 .mp4 .mpeg "
    ".mpg .msi .odp .ods .odt .ogg .ogv .opus .otf .pdf .pkg .png .pps .ppt .pptx .ps .psd .rar .rm .rpm .rss "
    ".rtf .svg .swf .tar .tgz .tif .tiff .torrent .ttf .wasm .wav .webm .webp .wma .wmv .woff .woff2 .xls "
    ".xlsx .xml .xz .zip .zst"
)
BINARY = frozenset(_BINARY.split())
_BLANKS_AND_CONTROLS = re.compile(r"[\x00-\x20\x7f]+")
_NO_ASCII = re.compile(rb"[\x80-\xff]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH_SAFE = "/!$&'()*+,;=:@%-._~"
_QUERY_SAFE = _PATH_SAFE + "?"
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")


def clean(url: str, *, drop_tracking: bool = True) -> str | None:
    """The one spelling of an http or https URL, or None where it is no such thing (or longer than MAX_LENGTH).

    Scheme and host in lower case (IDN as xn--), no default port, no fragment, dot segments resolved, percent-escapes
    in upper case and only where they are needed, tracking parameters left out. Names and passwords are not accepted.
    """
    text = _BLANKS_AND_CONTROLS.sub(lambda found: "%20" if " " in found[0] else "", url.strip())
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    host = _clean_host(parts.hostname or "")
    if scheme not in DEFAULT_PORTS or host is None or "@" in parts.netloc or port == 0:
        return None
    authority = host if port in (None, DEFAULT_PORTS[scheme]) else f"{host}:{port}"
    path = _without_dot_segments(_escape(parts.path, safe=_PATH_SAFE)) or "/"
    query = _escape(parts.query, safe=_QUERY_SAFE)
    if drop_tracking and query:
        fields = query.split("&")
        query = "&".join(field for field in fields if not TRACKING.fullmatch(field.partition("=")[0]))
    cleaned = f"{scheme}://{authority}{path}" + (f"?{query}" if query else "")
    return cleaned if len(cleaned) <= MAX_LENGTH else None


def join(base: str, location: str) -> str | None:
    """The cleaned URL that a Location header of the page `base` means; None where it is no http or https URL.

    location: the bytes of the header as latin-1. Many servers send UTF-8; bytes that are none are escaped one by one.
    """
    sent = location.strip().encode("latin-1", errors="replace")
    try:
        text = sent.decode("utf-8")
    except UnicodeDecodeError:
        text = _NO_ASCII.sub(lambda found: b"%%%02X" % found[0][0], sent).decode("ascii")
    try:
        return clean(urllib.parse.urljoin(base, text), drop_tracking=False)
    except ValueError:
        return None


def host_of(url: str) -> str:
    """The host of a cleaned URL, without the port."""
    return urllib.parse.urlsplit(url).hostname or ""


def port_of(url: str) -> int:
    parts = urllib.parse.urlsplit(url)
    return parts.port or DEFAULT_PORTS[parts.scheme]


def origin_of(url: str) -> str:
    """Scheme, host and port: what a robots.txt speaks for."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _clean_host(host: str) -> str | None:
    host = host.rstrip(".").lower()
    if ":" in host:  # an IPv6 address, whose brackets urlsplit took off and whose form it checked
        return f"[{host}]"
    if not host.isascii():
        host = _to_ascii(host)
    return host if len(host) <= 253 and _HOST.fullmatch(host) else None


def _to_ascii(host: str) -> str:
    """The xn-- form of an international name; an empty string where it has none."""
    try:
        import idna
    except ImportError:
        try:
            return host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return ""
    try:
        return idna.encode(host, uts46=True, transitional=False).decode("ascii").lower()
    except idna.IDNAError:
        return ""


def _escape(text: str, *, safe: str) -> str:
    """Escapes what may not stand plain, un-escapes what need not be escaped, upper case for the rest."""

    def spelled(found: re.Match) -> str:
        value = int(found[1], 16)
        return chr(value) if value in _UNRESERVED else f"%{value:02X}"

    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return urllib.parse.quote(_ESCAPE.sub(spelled, text), safe=safe, errors="replace")


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4."""
    if "." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    joined = "/".join(kept)
    return joined if joined.startswith("/") else "/" + joined


class BlockList:
    """Domains (with all below them) and ends of paths that are never fetched."""

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        """paths: text files with one domain or one .extension a line; # begins a comment."""
        self.domains: set[str] = set()
        self.extensions: set[str] = set(BINARY)
        for path in paths:
            self._read(Path(path))

    def _read(self, path: Path) -> None:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                entry = line.partition("#")[0].strip().lower()
                if entry.startswith("."):
                    self.extensions.add(entry)
                elif entry:
                    host = _clean_host(entry.removeprefix("*."))
                    if host is None:
                        raise UserError(
                            f"{path}, line {number}: {entry!r} is no domain (example.com) and no extension (.pdf)"
                        )
                    self.domains.add(host)

    def blocks(self, url: str) -> bool:
        """Whether a cleaned URL is on the list."""
        parts = urllib.parse.urlsplit(url)
        name = parts.path.rpartition("/")[2].lower()
        if "." in name and "." + name.rpartition(".")[2] in self.extensions:
            return True
        labels = (parts.hostname or "").split(".")
        return any(".".join(labels[i:]) in self.domains for i in range(len(labels))) if self.domains else False
