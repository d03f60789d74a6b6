"""Shards of tokenised documents: TFRecord files of one tf.train.Example each, read at random and written whole.

A document has a feature `hash` (its name, bytes) and a feature `text` (its token ids, int64, without end-of-text).
Where each document lies is kept in a sidecar (`shard_index`). All that is read is checked against its checksum.
"""

import contextlib
import gzip
import itertools
import os
import secrets
import shutil
import sys
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from runtime import shard_index
from runtime.errors import UserError
from runtime.example import BadExample, all_tokens, decode_spans, decode_varints, parse_example
from runtime.record import FOOTER, HEADER, OVERHEAD, check_frame, cut_off, damaged, masked_crc32c, read_at
from runtime.records import Records, encode_records, payload_places
from runtime.shard_index import END_BYTES, LONG_BYTES, Builder, Index, ends_checksum

_COPY_BYTES = 1 << 20
_WRITE_TOKENS = 1 << 16


class ShardWriter:
    """Writes a shard and its index; both appear under their names when the `with` block ends, or not at all.

    tokenizer: the digest of the vocabulary, kept in the index. Compressed when the path ends with .gz.
    """

    def __init__(self, path: str | Path, *, tokenizer: str | None = None):
        self.path = Path(path)
        self._temporary = self.path.with_name(f"{self.path.name}.tmp")
        self._tokenizer = tokenizer
        self._builder = Builder()
        self._head, self._tail = b"", b""  # of what is written so far
        self._waiting: list[tuple[bytes, np.ndarray]] = []
        self._waiting_tokens = 0
        self._file = open(self._temporary, "wb", buffering=_COPY_BYTES)  # noqa: SIM115 (closed by __exit__)
        self._out: BinaryIO | gzip.GzipFile = self._file
        if self.path.suffix == ".gz":
            # Without name and time, so that equal documents make equal files.
            self._out = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)

    def write(self, name: bytes, tokens: np.ndarray) -> None:
        """Appends a document. tokens: integers in 0 .. 2**31 - 1, without end-of-text."""
        tokens = np.asarray(tokens)
        # A copy, which the caller's changes do not reach; negative numbers become too large ones.
        self._waiting.append((name, tokens.astype(np.uint64 if tokens.dtype.itemsize == 8 else np.uint32)))
        self._waiting_tokens += len(tokens)
        if self._waiting_tokens >= _WRITE_TOKENS or len(self._waiting) >= _WRITE_TOKENS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Encodes the waiting documents, together, which is faster."""
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_tokens = self._waiting, [], 0
        self.write_records(encode_records([name for name, _ in waiting], [tokens for _, tokens in waiting]))

    def write_records(self, records: Records) -> None:
        """Appends documents that are records already."""
        self._write_waiting()
        if not len(records.rows):
            return
        data = records.data
        self._index(data, records.rows)
        if len(self._head) < END_BYTES:
            self._head = (self._head + data[:END_BYTES])[:END_BYTES]
        self._tail = (self._tail + data[-END_BYTES:])[-END_BYTES:]
        self._out.write(data)

    def _index(self, data: bytes, rows: np.ndarray) -> None:
        columns = {"payload": payload_places(rows), "count": rows["count"], "fingerprint": rows["fingerprint"]}
        data_bytes = rows["size"] - np.uint32(OVERHEAD)
        done = 0
        for number in ((rows["payload"] > LONG_BYTES) & (columns["payload"] > 0)).nonzero()[0].tolist():
            before = slice(done, number)
            self._builder.add_many(data_bytes[before], **{name: column[before] for name, column in columns.items()})
            stop = int(rows["size"][: number + 1].sum(dtype=np.int64)) - FOOTER.size
            start, text = stop - int(data_bytes[number]), stop - int(rows["payload"][number])
            self._builder.add_long(data, (start, stop), (text, stop))
            done = number + 1
        self._builder.add_many(data_bytes[done:], **{name: column[done:] for name, column in columns.items()})
        self._builder.max_id = max(self._builder.max_id, int(rows["largest"].max()))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self._file, contextlib.suppress(*([OSError] if kind else [])):
                if kind is None:
                    self._write_waiting()
                self._out.close()
            if kind is None:
                os.replace(self._temporary, self.path)
                ends = crc32c(self._head + self._tail)
                shard_index.save(index_path(self.path), self._builder.finish(ends=ends, tokenizer=self._tokenizer))
        finally:
            self._temporary.unlink(missing_ok=True)


class Span(NamedTuple):
    """Ids of a document: `count` of those in `data`, varints of at most four bytes or int32, after `skip` others."""

    data: bytes | np.ndarray
    skip: int
    count: int


class Shard:
    """A shard's documents by number, checked at each reading; never in memory as a whole. For any thread and process.

    path: the shard as named by the user. tokenizer: digest of the vocabulary that wrote it, or None if not known.
    max_id: the largest token id, -1 without any. token_counts: uint32 [documents], mapped into memory.
    """

    def __init__(self, path: Path, descriptor: int, index: Index):
        self.path = path
        self.tokenizer = index.tokenizer
        self.max_id = index.max_id
        self.token_counts = index.token_counts
        self._index = index
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def __len__(self) -> int:
        return len(self.token_counts)

    @property
    def fingerprints(self) -> np.ndarray:
        """uint32 [documents], crc32c of each document's ids as varints: equal for equal texts whatever their names."""
        return self._index.fingerprints

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """int32: the ids `start` to `stop` (default: all) of a document; fewer where it ends before `stop`."""
        return decode([self.span(document, start, stop)])[0]

    def span(self, document: int, start: int = 0, stop: int | None = None) -> Span:
        """What `tokens` gives, read and checked, to be decoded together with others."""
        count = int(self.token_counts[document])
        stop = count if stop is None else min(stop, count)
        if start >= stop:
            return Span(b"", 0, 0)
        if 4 * count > LONG_BYTES:
            pieces = self._index.pieces
            first, last = np.searchsorted(pieces["document"], [document, document + 1])
            if first < last:
                return self._from_pieces(document, pieces[first:last], start, stop)
        record, payload, offset = self._record(document)
        if not payload:
            return Span(self._parse(record, document, offset)[1], start, stop - start)
        text = HEADER.size + payload
        # An id has at most four bytes here, and what follows the wanted ones need not be decoded.
        return Span(record[text : min(text + 4 * stop, len(record) - FOOTER.size)], start, stop - start)

    def record(self, document: int) -> tuple[bytes, np.ndarray]:
        """Name and ids (int32) of a document, read whole."""
        record, _, offset = self._record(document)
        return self._parse(record, document, offset)

    def _record(self, document: int) -> tuple[bytes, int, int]:
        offset, end, payload = self._index.row(document)
        record = read_at(self._descriptor, end - offset, offset)
        check_frame(record, end - offset, path=self.path, record=document, offset=offset)
        return record, payload, offset

    def _parse(self, record: bytes, document: int, offset: int) -> tuple[bytes, np.ndarray]:
        try:
            parsed = parse_example(record, HEADER.size, len(record) - FOOTER.size)
            return parsed.name, all_tokens(record, parsed.text).astype(np.int32)
        except BadExample as error:
            raise damaged(self.path, document, offset, str(error)) from None

    def _from_pieces(self, document: int, pieces: np.ndarray, start: int, stop: int) -> Span:
        first = np.searchsorted(pieces["token"], start, side="right") - 1
        last = np.searchsorted(pieces["token"], stop)
        parts = []
        for piece, following in zip(pieces[first:last], pieces[first + 1 : last + 1], strict=True):
            low, high = int(piece["offset"]), int(following["offset"])
            data = read_at(self._descriptor, high - low, low)
            if len(data) < high - low:
                raise cut_off(self.path, document, low, low + len(data))
            if crc32c(data) != piece["checksum"]:
                raise damaged(self.path, document, low, "its data does not fit its checksum, bytes have changed")
            parts.append(data)
        return Span(b"".join(parts), start - int(pieces["token"][first]), stop - start)


def decode(spans: Sequence[Span]) -> list[np.ndarray]:
    """int32: the ids of each; for short ones, many at once take a fraction of the time."""
    # The byte before each ends a number, and three bytes follow the last.
    data = [span.data for span in spans if isinstance(span.data, bytes)]
    if len(data) == 1:
        values, firsts = decode_varints(b"\0%b\0\0\0" % data[0], 1, 1 + len(data[0])), [0]
    elif data:
        starts = list(itertools.accumulate((1 + len(each) for each in data[:-1]), initial=1))
        values, _, found = decode_spans(b"\0".join([b"", *data, b"\0\0"]), np.array(starts))
        firsts = found.tolist()
    else:
        values, firsts = np.zeros(0, np.int32), []
    first = iter(firsts)
    decoded = []
    for span in spans:
        ids, start = (values, next(first)) if isinstance(span.data, bytes) else (span.data, 0)
        decoded.append(ids[start + span.skip : start + span.skip + span.count])
    return decoded


def open_shard(path: str | Path, *, cache: Path | None = None) -> Shard:
    """Opens a shard, plain or gzip.

    cache: a folder for what cannot be beside the shard, and for the unpacked copy of a compressed one. The index is
    made again when it is missing or of another shard; where no folder can be written, it is kept in memory.
    Raises UserError when the shard is damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a shard")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _is_gzip(descriptor):
            unpacked = _unpack(path, descriptor, cache)
            os.close(descriptor)
            descriptor = os.open(unpacked, os.O_RDONLY)
        index = _index_of(path, descriptor, cache)
    except BaseException:
        os.close(descriptor)
        raise
    return Shard(path, descriptor, index)


def index_path(path: Path) -> Path:
    """The sidecar of a shard."""
    return path.with_name(f"{path.name}.index")


def _index_of(path: Path, descriptor: int, cache: Path | None) -> Index:
    """The index of a shard, made if needed."""
    size = os.fstat(descriptor).st_size
    ends = ends_checksum(descriptor, size)
    places = [index_path(path)]
    if cache:
        places.append(cache / f"{path.name}.{size:x}-{ends:08x}.index")
    for place in places:
        index = shard_index.load(place)
        if index and (index.size, index.ends) == (size, ends):
            return index
        if index and index.was_longer(size):
            raise UserError(
                f"{path}: the shard is cut off, it has {size} of the {index.size} bytes and some of the "
                f"{index.documents} documents of its index; copy or make it again, or delete {place} if it is whole"
            )
    return shard_index.keep(shard_index.build(descriptor, path, size=size), places)


def _is_gzip(descriptor: int) -> bool:
    """Told by the content. A record of some lengths begins like gzip, but then the checksum of its length is right."""
    head = read_at(descriptor, HEADER.size, 0)
    if not head.startswith(b"\x1f\x8b"):
        return False
    return len(head) < HEADER.size or HEADER.unpack(head)[1] != masked_crc32c(head[:8])


def _unpack(path: Path, descriptor: int, cache: Path | None) -> Path:
    """Unpacks a compressed shard once, because documents cannot be found in a compressed one; returns the copy."""
    size = os.fstat(descriptor).st_size
    folder = cache or path.parent
    target = folder / f"{path.name}.{size:x}-{ends_checksum(descriptor, size):08x}.unpacked"
    if target.exists():
        return target
    print(f"unpacking {path} to {target}, once", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with gzip.open(path, "rb") as packed, open(temporary, "wb") as file:
            shutil.copyfileobj(packed, file, _COPY_BYTES)
        os.replace(temporary, target)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy or make the shard again") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target
