"""Web archives for tests, written by libraries other than those that read them."""

import io
import lzma
import random
import re
import tarfile
from pathlib import Path

import pytest

WORDS = {
    "noun": "river village teacher engine garden market winter library bridge doctor harbour museum letter forest",
    "verb": "described followed repaired remembered visited painted crossed measured discovered protected changed",
    "link": "beside near behind above below beyond towards across through around",
}
SENTENCES = (
    "The {noun} was {verb} {link} a {noun}.",
    "Nobody knew that some {noun} {verb} the other {noun} with a {noun}.",
    "In {year} a {noun} and two friends {verb} it.",
    "To be {verb} {link} that {noun} is what every {noun} wants.",
    "They have often {verb} {noun} of {noun}, {link} another {noun}.",
    "{year} began, and one {noun} after another {verb} {link} us.",
)


def text(number: int, sentences: int = 20) -> str:
    """Returns English text that passes the quality filters and is different for each number."""
    rng = random.Random(number)

    def filled(sentence: str) -> str:
        return re.sub("{(.*?)}", lambda found: rng.choice(choices(found[1])), sentence)

    def choices(kind: str) -> list[str]:
        return WORDS[kind].split() if kind in WORDS else [str(year) for year in range(1500, 2000)]

    lines = [filled(rng.choice(SENTENCES)) for _ in range(sentences)]
    return "\n".join(" ".join(lines[i : i + 4]) for i in range(0, sentences, 4))


def html(number: int, content: str | None = None) -> bytes:
    paragraphs = "".join(f"<p>{line}</p>" for line in (content or text(number)).split("\n"))
    return (
        f"<!DOCTYPE html><html><head><title>Page {number}</title></head><body><nav><a href='/'>Home</a></nav><article>"
        f"<h1>Page {number}</h1>{paragraphs}</article><footer>All rights reserved.</footer></body></html>"
    ).encode()


def write_warc(path: Path, bodies: list[bytes | tuple[bytes, str, str]], *, kind: str = "response") -> Path:
    """Writes a WARC file. bodies: of HTML pages, or (body, status line, content type)."""
    pytest.importorskip("warcio", reason="writes the WARC files that are read")
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=path.name.endswith(".gz"))
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for number, entry in enumerate(bodies):
            body, status, content_type = entry if isinstance(entry, tuple) else (entry, "200 OK", "text/html")
            http = None
            if kind == "response":
                http = StatusAndHeaders(status, [("Content-Type", content_type)], protocol="HTTP/1.1")
            headers = {
                "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012d}>",
                "WARC-Date": "2026-01-02T03:04:05Z",
            }
            url = f"http://site.test/{number}"
            writer.write_record(
                writer.create_warc_record(url, kind, io.BytesIO(body), http_headers=http, warc_headers_dict=headers)
            )
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with lzma.open(path, "wb", preset=1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path
