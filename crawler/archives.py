"""From the spool to archives, in the order of the lists: the same pages, the same bytes, whenever each of them came.

`warc`: pages-00000.warc.gz, ...; `archive`: NAME-1_data.xz and NAME-1_meta.xz as in jcpeterson/openwebtext, tars of
<7-digit line number>-<md5 of the URL>.txt and .json. Each appears whole or not at all.
"""

import contextlib
import hashlib
import io
import itertools
import json
import lzma
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crawler import charsets, warc
from crawler.frontier import Finished, cleaned
from crawler.journal import Spool
from crawler.pages import facts_of
from estimator import storage
from estimator.corpus.build import marks
from estimator.corpus.build.marks import Sum
from estimator.errors import UserError

WARC_NAME = "pages"
# xz takes 4 times as long for the last 5 % at its own default.
XZ_PRESET = 2
_NUMBERED = re.compile(r"(.*)-(\d+)[._]")


def lost_pages(pages: Iterable[Finished], spool: Spool, *, progress: Callable[[int], object]) -> list[str]:
    """The URLs whose pages cannot be read back from the spool, as after a power failure."""
    lost = []
    for page in pages:
        record = warc.unpack(spool.read(page.place))
        if record is None or record.source != page.url:
            lost.append(page.url)
        progress(page.place.length)
    return lost


class Target:
    """Where archives go: a local folder, or a bucket that they are sent to one by one."""

    def __init__(self, out: str, *, scratch: Path) -> None:
        self._out = out
        self._scratch = Path(scratch if storage.is_remote(out) else out)
        self._scratch.mkdir(parents=True, exist_ok=True)
        self.sums: dict[str, Sum] = {}  # of the published archives, by name

    def temporary(self, name: str) -> Path:
        return self._scratch / f".{name}.tmp"

    def publish(self, name: str) -> None:
        """The temporary file of this name gets its own name."""
        temporary = self.temporary(name)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        self.sums[name] = marks.sum_of(temporary)
        if storage.is_remote(self._out):
            storage.upload(temporary, storage.join(self._out, name))
            temporary.unlink()
        else:
            os.replace(temporary, Path(self._out) / name)

    def has(self, name: str, expected: Sum) -> bool:
        """Whether an archive is as it was published."""
        return marks.has_sum(storage.join(self._out, name), expected)


def write_warcs(
    pages: Iterable[Finished], spool: Spool, target: Target, *, first: int, file_bytes: int, information: warc.Headers
) -> Iterator[str]:
    """Writes the records into files of at least file_bytes each, except the last; yields the names. first: number."""
    pages = iter(pages)
    for number in itertools.count(first):
        page = next(pages, None)
        if page is None:
            return
        name = f"{WARC_NAME}-{number:05d}.warc.gz"
        with open(target.temporary(name), "wb") as output:
            record = _record(spool.read(page.place))
            output.write(warc.information(name, information, date=record.date))
            while page is not None:
                output.write(spool.read(page.place))
                page = next(pages, None) if output.tell() < file_bytes else None
        target.publish(name)
        yield name


def write_tars(
    pages: Iterable[Finished], spool: Spool, target: Target, *, first: Callable[[str], int], chunk_size: int
) -> Iterator[str]:
    """Writes pages into pairs of tars, chunk_size pages each, a list's apart from another's; yields the names.

    first: the number of the first archive of a name.
    """
    following: dict[str, int] = {}
    # Lists of one name in different folders continue one numbering.
    for name, group in itertools.groupby(pages, key=lambda page: page.name):
        for chunk in _chunks(group, chunk_size):
            number = following.get(name) or first(name) or 1
            following[name] = number + 1
            files = {kind: f"{name}-{number}_{kind}.xz" for kind in ("data", "meta")}
            with _tar(target.temporary(files["data"])) as data, _tar(target.temporary(files["meta"])) as meta:
                for page in chunk:
                    record = _record(spool.read(page.place))
                    name_of_page = identity(page.line, page.raw)
                    _add(data, f"{name_of_page}.txt", _text(record))
                    _add(meta, f"{name_of_page}.json", _meta(record, url=page.raw))
            for file in files.values():
                target.publish(file)
                yield file


def following_numbers(files: Iterable[str]) -> dict[str, int]:
    """The number of the next archive of each name, after these."""
    return {found[1]: int(found[2]) + 1 for found in map(_NUMBERED.match, files) if found}


def pages_in(out: str, *, following: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """The cleaned URLs of the pages in the archives of a folder or bucket, and where their redirects ended.

    following: the number of the next archive of a name; that one and later ones may be written again. The rest of a
    damaged archive is left out.
    """
    for path in storage.children(out):
        numbered = _NUMBERED.match(path.rpartition("/")[2])
        if not numbered or int(numbered[2]) >= following(numbered[1]):
            continue
        if path.endswith(".warc.gz"):
            with storage.open(path) as file, contextlib.suppress(UserError):
                yield from ((each.source, each.url) for each in warc.records(file, name=path) if each.source)
        elif path.endswith("_data.xz"):
            for facts in facts_of(path).values():
                if url := cleaned(str(facts.get("url", ""))):
                    yield url, str(facts.get("final_url", url))


def _chunks(pages: Iterable[Finished], size: int) -> Iterator[Iterator[Finished]]:
    """The pages in runs of `size`; each run must be used up before the next."""
    pages = iter(pages)
    for page in pages:
        yield itertools.chain([page], itertools.islice(pages, size - 1))


def _record(member: bytes) -> warc.Record:
    record = warc.unpack(member)
    if record is None:
        raise UserError("the spool changed while its pages were copied; run the same command again")
    return record


def identity(line: int, url: str) -> str:
    """The name of a page in the archives, and of the document in the shards. url: as the list spells it."""
    return f"{line:07d}-{hashlib.md5(url.encode()).hexdigest()}"


def _text(record: warc.Record) -> bytes:
    """The HTML in UTF-8, as the raw scraper of jcpeterson/openwebtext keeps it."""
    return charsets.decode(record.body, record.content_type)[0].encode("utf-8", errors="replace")


def _meta(record: warc.Record, *, url: str) -> bytes:
    values = {
        "url": url,
        "final_url": record.url,
        "date": record.date,
        "status": record.status,
        "content_type": record.content_type,
        "bytes": len(record.body),
        "scraper": "raw",
    }
    return json.dumps(values, sort_keys=True).encode()


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    with (
        lzma.open(path, "wb", preset=XZ_PRESET) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
