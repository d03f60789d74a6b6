"""Archives of pages for tests, written by other libraries than those that read them."""

import io
import lzma
import random
import tarfile
from pathlib import Path

import pytest

NOUNS = ["river", "village", "teacher", "engine", "garden", "market", "winter", "library", "bridge", "doctor", "harbour", "museum", "letter", "forest"]
VERBS = ["described", "followed", "repaired", "remembered", "visited", "painted", "crossed", "measured", "discovered", "protected", "changed"]
LINKS = ["beside", "near", "behind", "above", "below", "beyond", "towards", "across", "through", "around"]


def text(number: int, sentences: int = 12) -> str:
    """English enough for the rules, and different for each number."""
    rng = random.Random(number)
    lines = []
    for _ in range(sentences):
        one, two, three, four = rng.sample(NOUNS, 4)
        begin = f"The {one} that the {two} {rng.choice(VERBS)} in {rng.randint(1500, 2000)}"
        lines.append(f"{begin} is to be found {rng.choice(LINKS)} the {three} and {rng.choice(LINKS)} a {four}.")
    return "\n".join(" ".join(lines[i : i + 4]) for i in range(0, sentences, 4))


def html(number: int, content: str | None = None) -> bytes:
    paragraphs = "".join(f"<p>{line}</p>" for line in (content or text(number)).split("\n"))
    return (
        f"<!DOCTYPE html><html><head><title>Page {number}</title></head><body><nav><a href='/'>Home</a></nav><article>"
        f"<h1>Page {number}</h1>{paragraphs}</article><footer>All rights reserved.</footer></body></html>"
    ).encode()


def write_warc(path: Path, bodies: list[bytes | tuple[bytes, str, str]], *, kind: str = "response") -> Path:
    """bodies: of pages, or (body, status line, content type)."""
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
