"""The sidecar of a shard, `NAME.tfrecords.index`: where each document lies, so that any token is found at once.

Layout (little-endian): a header; for each document its token count (u32); for each its fingerprint (u32); for each a
row (u64 offset of its record, u32 place of its varints within the data, 0 when these must be parsed) and one more row
for the end of the shard; the pieces of long documents. The header and the rest carry checksums. An index belongs to the
shard whose size and whose first and last 4 KiB it knows, so that a shard copied with its index keeps it.
"""

import bisect
import contextlib
import os
import secrets
import struct
import sys
import weakref
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c
from tqdm import tqdm

from runtime.example import (
    BadExample,
    all_tokens,
    decode_spans,
    decode_varints,
    encode_varints,
    five_byte_varints,
    parse_example,
)
from runtime.record import HEADER, OVERHEAD, Frames, damaged, read_at, read_frames

MAX_ID = int(np.iinfo(np.int32).max)
# Documents with more bytes are read by pieces, each with its own checksum: a window of a book does not read the book.
LONG_BYTES = 1 << 18
PIECE_BYTES = 1 << 16
END_BYTES = 1 << 12
_MAGIC, _VERSION = b"GPT2TFRI", 1
# magic, version, ends, documents, pieces, bytes of the shard, max id, tokenizer, checksum of the rest; then its own
_HEADER = struct.Struct("<8sIIQQQq64sI")
_CHECKSUM = struct.Struct("<I")
_BODY = _HEADER.size + _CHECKSUM.size
_ROW = np.dtype([("offset", "<u8"), ("payload", "<u4")])
_ONE_ROW, _TWO_ROWS = struct.Struct("<QI"), struct.Struct("<QIQI")
_PIECE = np.dtype([("document", "<u4"), ("checksum", "<u4"), ("token", "<u8"), ("offset", "<u8")])
_SHOW_PROGRESS = 1 << 28  # shards of more bytes take seconds to index

Buffer = bytes | bytearray | array
Read = Callable[[int, int], bytes]  # (size, offset) -> the bytes there


class Index:
    """What is known of a shard's documents.

    tokenizer: digest or None; max_id: the largest token id, -1 without any; size, ends: the shard it belongs to.
    token_counts: uint32 [documents]; pieces: the pieces of long documents, and for each of these a last one at its end.
    """

    def __init__(self, read: Read, token_counts: np.ndarray | None = None):
        header = _HEADER.unpack(read(_HEADER.size, 0))
        _, _, self.ends, self.documents, pieces, self.size, self.max_id, tokenizer, _ = header
        self.tokenizer: str | None = tokenizer.rstrip(b"\0").decode() or None
        self._read = read
        self._fingerprints = _BODY + 4 * self.documents
        self._rows = self._fingerprints + 4 * self.documents
        end = self._rows + _ROW.itemsize * (self.documents + 1)
        self.pieces = np.frombuffer(read(_PIECE.itemsize * pieces, end), _PIECE)
        counts = np.frombuffer(read(4 * self.documents, _BODY), "<u4") if token_counts is None else token_counts
        self.token_counts = counts[: self.documents]

    @property
    def fingerprints(self) -> np.ndarray:
        """uint32 [documents], read from the file at each call."""
        return np.frombuffer(self._read(4 * self.documents, self._fingerprints), "<u4")

    def row(self, document: int) -> tuple[int, int, int]:
        """Offset of a document's record, of the next one, and the place of its varints in its data (0: unknown)."""
        rows = self._read(_TWO_ROWS.size, self._rows + _ROW.itemsize * document)
        offset, payload, end, _ = _TWO_ROWS.unpack(rows)
        return offset, end, payload

    def was_longer(self, size: int) -> bool:
        """Whether a shard of `size` bytes looks like this index's, cut off between two records."""
        if size >= self.size:
            return False
        document = bisect.bisect_left(range(self.documents), size, key=lambda i: self.row(i)[0])
        return document < self.documents and self.row(document)[0] == size


def load(path: Path) -> Index | None:
    """The index in a file, or None when there is none or it is damaged. The token counts are mapped into memory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    counts = None
    with contextlib.suppress(OSError):
        if _is_intact(descriptor):
            counts = np.memmap(path, "<u4", mode="r", offset=_BODY)
    if counts is None:
        os.close(descriptor)
        return None
    index = Index(lambda size, offset: read_at(descriptor, size, offset), counts)
    weakref.finalize(index, os.close, descriptor)
    return index


def _is_intact(descriptor: int) -> bool:
    """Whether version and checksums are right; the body is read by and by, so that it takes no memory."""
    header = read_at(descriptor, _BODY, 0)
    if len(header) < _BODY:
        return False
    facts, own = header[: _HEADER.size], _CHECKSUM.unpack_from(header, _HEADER.size)[0]
    magic, version, *_, checksum = _HEADER.unpack(facts)
    crc, offset = 0, _BODY
    while part := read_at(descriptor, 1 << 20, offset):
        crc = extend(crc, part)
        offset += len(part)
    return (magic, version, own, checksum) == (_MAGIC, _VERSION, crc32c(facts), crc)


def save(path: Path, parts: Sequence[Buffer]) -> None:
    """Writes an index file, whole or not at all, while other processes may be writing the same."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def keep(parts: Sequence[Buffer], places: Sequence[Path]) -> Index:
    """The index made of these parts, written to the first of the places that can be, or else in memory."""
    for place in places:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            save(place, parts)
            if index := load(place):
                return index
    return in_memory(parts)


def in_memory(parts: Sequence[Buffer]) -> Index:
    """An index that is in no file."""
    contents = b"".join(parts)
    return Index(lambda size, offset: contents[offset : offset + size])


def ends_checksum(descriptor: int, size: int) -> int:
    """crc32c of the first and the last 4 KiB of a shard."""
    first = read_at(descriptor, min(size, END_BYTES), 0)
    return extend(crc32c(first), read_at(descriptor, min(size, END_BYTES), max(0, size - END_BYTES)))


class Builder:
    """Collects what an index knows, a document at a time."""

    def __init__(self) -> None:
        self.max_id = -1
        self.size = 0  # of the shard so far
        # Compact, and written as they are: a shard of 10 GB may have five million documents.
        self._counts, self._fingerprints, self._rows = array("I"), array("I"), bytearray()
        self._pieces: list[tuple[int, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, data_bytes: int, *, payload: int, count: int, fingerprint: int, max_id: int) -> None:
        """The next document: bytes of its data, place of its varints there or 0, tokens, crc32c of its varints."""
        self._rows += _ONE_ROW.pack(self.size, payload)
        self._counts.append(count)
        self._fingerprints.append(fingerprint)
        self.max_id = max(self.max_id, max_id)
        self.size += data_bytes + OVERHEAD

    def add_many(
        self, data_bytes: np.ndarray, *, payload: np.ndarray, count: np.ndarray, fingerprint: np.ndarray
    ) -> None:
        """The next documents: arrays [documents] of what `add` takes. Their largest ids are for the caller to add."""
        sizes = data_bytes.astype(np.uint64) + np.uint64(OVERHEAD)
        rows = np.empty(len(sizes), _ROW)
        rows["offset"] = np.uint64(self.size) + sizes.cumsum(dtype=np.uint64) - sizes
        rows["payload"] = payload
        self._rows += rows.tobytes()
        self._counts.frombytes(count.astype("<u4").tobytes())
        self._fingerprints.frombytes(fingerprint.astype("<u4").tobytes())
        self.size += int(sizes.sum())

    def add_at(self, offset: int, *, count: int, fingerprint: int) -> None:
        """The next document of an array: place of its first id, and the others as for `add`."""
        self._rows += _ONE_ROW.pack(offset, 0)
        self._counts.append(count)
        self._fingerprints.append(fingerprint)

    def add_long(self, buffer: bytes, data: tuple[int, int], text: tuple[int, int]) -> None:
        """The next document, to be read by pieces: (start, stop) in `buffer` of its data and of its short varints.

        The buffer must hold the whole record.
        """
        count, max_id = 0, -1
        shift = self.size + HEADER.size - data[0]  # from the buffer to the file
        for start, stop in cut(buffer, *text):
            tokens = decode_varints(buffer, start, stop)
            self._pieces.append((len(self), crc32c(buffer[start:stop]), count, start + shift))
            count += len(tokens)
            max_id = max(max_id, int(tokens.max()))
        self._pieces.append((len(self), 0, count, text[1] + shift))
        fingerprint = crc32c(buffer[text[0] : text[1]])
        payload = text[0] - data[0]
        self.add(data[1] - data[0], payload=payload, count=count, fingerprint=fingerprint, max_id=max_id)

    def finish(self, *, ends: int, tokenizer: str | None) -> list[Buffer]:
        """The index file, in parts. Nothing can be added afterwards."""
        self._rows += _ONE_ROW.pack(self.size, 0)
        pieces = np.array(self._pieces, _PIECE)
        body: list[Buffer] = [self._counts, self._fingerprints, self._rows, pieces.tobytes()]
        crc = 0
        for part in body:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), 1 << 20):
                crc = extend(crc, bytes(view[start : start + (1 << 20)]))
        facts = (ends, len(self), len(pieces), self.size, self.max_id, (tokenizer or "").encode(), crc)
        header = _HEADER.pack(_MAGIC, _VERSION, *facts)
        return [header, _CHECKSUM.pack(crc32c(header)), *body]


def cut(buffer: bytes, start: int, stop: int) -> list[tuple[int, int]]:
    """Pieces of about PIECE_BYTES of the varints in buffer[start:stop], each of whole numbers."""
    pieces = []
    while start < stop:
        end = min(start + PIECE_BYTES, stop)
        while buffer[end - 1] >= 0x80:
            end += 1
        pieces.append((start, end))
        start = end
    return pieces


def build(descriptor: int, path: Path, *, size: int) -> list[Buffer]:
    """Reads and checks a whole shard; returns its index file, in parts. Raises UserError where it is damaged."""
    builder = Builder()
    terminal = sys.stderr.isatty()
    if size >= _SHOW_PROGRESS and not terminal:
        print(f"indexing {path} ({size / 1e9:.1f} GB)", file=sys.stderr, flush=True)
    hidden = size < _SHOW_PROGRESS or not terminal
    with tqdm(total=size, desc=f"indexing {path.name}", unit="B", unit_scale=True, disable=hidden) as bar:
        for frames in read_frames(descriptor, path, size=size):
            _add_frames(builder, frames, path)
            bar.update(len(frames.buffer))
    return builder.finish(ends=ends_checksum(descriptor, size), tokenizer=None)


def _add_frames(builder: Builder, frames: Frames, path: Path) -> None:
    """Indexes the records of one read."""
    buffer = frames.buffer
    too_long = five_byte_varints(buffer).tolist()
    simple: list[tuple[int, int, int, int]] = []  # documents to decode together: of their data and of their varints

    def add_simple() -> None:
        if simple:
            _add_simple(builder, buffer, np.array(simple))
            simple.clear()

    for start, stop in zip(frames.starts, frames.stops, strict=True):
        number, offset = len(builder) + len(simple), frames.offset + start - HEADER.size
        try:
            text = parse_example(buffer, start, stop).text
            if len(text) == 1 and bisect.bisect_left(too_long, text[0][0]) == bisect.bisect_left(too_long, text[0][1]):
                simple.append((start, stop, *text[0]))
                continue
            add_simple()
            _add_odd(builder, stop - start, all_tokens(buffer, text))
        except BadExample as error:
            raise damaged(path, number, offset, str(error)) from None
    add_simple()


def _add_simple(builder: Builder, buffer: bytes, documents: np.ndarray) -> None:
    """Documents of one packed list of short varints each, which are decoded all at once."""
    starts, stops, texts, text_stops = documents.T
    if len(buffer) > LONG_BYTES:
        ((start, stop, text, text_stop),) = documents.tolist()
        builder.add_long(buffer, (start, stop), (text, text_stop))
        return
    values, places, firsts = decode_spans(buffer, texts)
    lasts = np.searchsorted(places, text_stops)
    largest = np.maximum.reduceat(values, np.stack([firsts, lasts], axis=1).ravel())[::2]
    columns = (stops - starts, texts - starts, lasts - firsts, texts, text_stops, largest)
    for size, payload, count, text, text_stop, max_id in zip(*(column.tolist() for column in columns), strict=True):
        fingerprint = crc32c(buffer[text:text_stop])
        builder.add(size, payload=payload, count=count, fingerprint=fingerprint, max_id=max_id)


def _add_odd(builder: Builder, size: int, tokens: np.ndarray) -> None:
    """A document without tokens, or with them one by one, or with ids of more than four bytes."""
    wrong = tokens[(tokens < 0) | (tokens > MAX_ID)]
    if len(wrong):
        raise BadExample(f"the token id {wrong[0]} is negative or above {MAX_ID}")
    fingerprint = crc32c(*encode_varints(tokens, [len(tokens)]))
    builder.add(size, payload=0, count=len(tokens), fingerprint=fingerprint, max_id=int(tokens.max(initial=-1)))
