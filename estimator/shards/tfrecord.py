"""Shards of tokenized documents: TFRecord files of one tf.train.Example each, read at random and written whole.

A document has a feature `hash` (its name, bytes) and a feature `text` (its token ids, int64, without end-of-text).
An index file holds the positions of documents (`shard.py`). Every record is checked against its checksum.
"""

import bisect
import contextlib
import gzip
import os
import shutil
import sys
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from google_crc32c import value as crc32c

from estimator import storage
from estimator.errors import UserError
from estimator.shards.build_index import Builder, build, ends_checksum, keep, load_index, save
from estimator.shards.encode_records import Records, encode_records, payload_places
from estimator.shards.framing import FOOTER, HEADER, OVERHEAD, data_length, read_at
from estimator.shards.shard import END_BYTES, LONG_BYTES, Index, Shard

_COPY_BYTES = 1 << 20
_WRITE_TOKENS = 1 << 16


class ShardWriter:
    """Writes a shard and its index; both appear under their names when the `with` block ends, or not at all.

    tokenizer: the digest of the vocabulary, kept in the index. Compressed when the path ends with .gz.
    """

    def __init__(self, path: str | Path, *, tokenizer: str | None = None):
        self.path = Path(path)
        self._tokenizer = tokenizer
        self._builder = Builder()
        self._head, self._tail = b"", b""  # first and last bytes written so far
        self._waiting: list[tuple[bytes, np.ndarray]] = []
        self._waiting_tokens = 0
        self._stack = contextlib.ExitStack()
        # One name, so that a writer that is killed leaves one file.
        temporary = self._stack.enter_context(storage.replacing(self.path, temporary=f"{self.path}.tmp"))
        self._out: IO[bytes] | gzip.GzipFile = self._stack.enter_context(open(temporary, "wb", buffering=_COPY_BYTES))  # noqa: SIM115
        if self.path.suffix == ".gz":
            # Without name and time, so that equal documents make equal files.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._out, compresslevel=6, mtime=0)
            self._out = self._stack.enter_context(packed)

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
        if kind is not None:
            with contextlib.suppress(OSError):
                self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._write_waiting()
        ends = crc32c(self._head + self._tail)
        save(index_path(self.path), self._builder.finish(ends=ends, tokenizer=self._tokenizer))


def open_shard(path: str | Path, *, cache: Path | None = None) -> Shard:
    """Opens a shard, plain or gzip.

    cache: a folder for files that cannot be next to the shard, and for the unpacked copy of a compressed one. A missing
    index, or one of another shard, is made again; where no folder can be written, it is kept in memory.
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
        index = load_index(place)
        if index and (index.size, index.ends) == (size, ends):
            return index
        if index and _was_longer(index, size):
            raise UserError(
                f"{path}: the shard is cut off, it has {size} of the {index.size} bytes and some of the "
                f"{index.documents} documents of its index; copy or make it again, or, if it is whole, move {place}"
            )
    return keep(build(descriptor, path, size=size), places)


def _was_longer(index: Index, size: int) -> bool:
    """Whether a shard of `size` bytes is a prefix of the index's, cut off between two records."""
    if size >= index.size:
        return False
    document = bisect.bisect_left(range(index.documents), size, key=lambda i: index.row(i)[0])
    return document < index.documents and index.row(document)[0] == size


def _is_gzip(descriptor: int) -> bool:
    """Decided by the contents. Some records begin like gzip; the checksum of their length then fits."""
    head = read_at(descriptor, HEADER.size, 0)
    if not head.startswith(b"\x1f\x8b"):
        return False
    return len(head) < HEADER.size or data_length(head) is None


def _unpack(path: Path, descriptor: int, cache: Path | None) -> Path:
    """Unpacks a compressed shard once, because documents cannot be found in a compressed one; returns the copy."""
    size = os.fstat(descriptor).st_size
    folder = cache or path.parent
    target = folder / f"{path.name}.{size:x}-{ends_checksum(descriptor, size):08x}.unpacked"
    if target.exists():
        return target
    print(f"unpacking {path} to {target}, once", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with gzip.open(path, "rb") as packed, storage.new_file(target) as file:
            shutil.copyfileobj(packed, file, _COPY_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy or make the shard again") from None
    return target
