"""Runs datasets/openwebtext/download.py and reads its results."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

from crawler import warc
from helpers.website import Site

PROGRAM = ROOT / "datasets" / "openwebtext" / "download.py"
DELAY = 0.02
FAST = [
    *("--contact", "tests@example.org", "--fixed_date", "2026-01-01T00:00:00Z", "--respect_noai"),
    *("--delay", str(DELAY), "--backoff", "0.1", "--attempts", "3", "--max_wait", "3", "--max_bytes", "2000000"),
    *("--total_timeout", "2.5", "--read_timeout", "1.5", "--connect_timeout", "2", "--concurrency", "40"),
]


def command(urls_file: Path, out: Path, site: Site, *more: str) -> list[str]:
    return [sys.executable, str(PROGRAM), str(urls_file), "--out", str(out), *FAST, *site.resolve, *more]


def run(*arguments: str | Path, timeout: float = 300.0) -> subprocess.CompletedProcess:
    return subprocess.run([str(each) for each in arguments], capture_output=True, text=True, timeout=timeout)


def write_urls(folder: Path, lines: list[str], name: str = "urls.txt") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def records(out: Path) -> Iterator[warc.Record]:
    for path in sorted(out.glob("*.warc.gz")):
        with open(path, "rb") as file:
            yield from (record for record in warc.records(file, name=str(path)) if record.kind == "response")


def archives(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name.endswith((".warc.gz", ".xz"))}
