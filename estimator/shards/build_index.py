"""Builds the index of a shard, writes it, and opens it again."""

import bisect
import contextlib
import os
import sys
import weakref
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c
from tqdm import tqdm

from estimator import format_version, storage
from estimator.shards.damage import bad_data, bad_header, cut_off, damaged
from estimator.shards.framing import (
    FOOTER,
    HEADER,
    OVERHEAD,
    data_length,
    decode_spans,
    decode_varints,
    footers,
    read_at,
)
from estimator.shards.shard import (
    BODY,
    CHECKSUM,
    END_BYTES,
    INDEX_HEADER,
    LONG_BYTES,
    MAGIC,
    MAX_ID,
    ONE_ROW,
    PIECE,
    ROW,
    VERSION,
    Buffer,
    Index,
)
from estimator.shards.tf_example import BadExample, all_tokens, encode_varints, parse_example

PIECE_BYTES = 1 << 16
CHUNK = 1 << 17  # bytes read at a time when going through a shard: what stays in the processor's cache
_SHOW_PROGRESS = 1 << 28  # shards of more bytes take seconds to index


class Frames(NamedTuple):
    """Consecutive records as read from a file: `buffer[start:stop]` is the data of each, checked."""

    buffer: bytes
    offset: int  # of the buffer in the file
    starts: list[int]
    stops: list[int]


class Builder:
    """Builds an index, a document at a time."""

    def __init__(self) -> None:
        self.max_id = -1
        self.size = 0  # of the shard so far
        # Compact, and written as they are: a shard of 10 GB may have five million documents.
        self._counts, self._fingerprints, self._rows = array("I"), array("I"), bytearray()
        self._pieces: list[tuple[int, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, data_bytes: int, *, payload: int, count: int, fingerprint: int, max_id: int) -> None:
        """Adds a document: bytes of its data, position of its varints in it or 0, tokens, crc32c of its varints."""
        self._rows += ONE_ROW.pack(self.size, payload)
        self._counts.append(count)
        self._fingerprints.append(fingerprint)
        self.max_id = max(self.max_id, max_id)
        self.size += data_bytes + OVERHEAD

    def add_many(
        self, data_bytes: np.ndarray, *, payload: np.ndarray, count: np.ndarray, fingerprint: np.ndarray
    ) -> None:
        """The next documents: arrays [documents] of what `add` takes. Their largest ids are for the caller to add."""
        sizes = data_bytes.astype(np.uint64) + np.uint64(OVERHEAD)
        rows = np.empty(len(sizes), ROW)
        rows["offset"] = np.uint64(self.size) + sizes.cumsum(dtype=np.uint64) - sizes
        rows["payload"] = payload
        self._rows += rows.tobytes()
        self._counts.frombytes(count.astype("<u4").tobytes())
        self._fingerprints.frombytes(fingerprint.astype("<u4").tobytes())
        self.size += int(sizes.sum())

    def add_at(self, offset: int, *, count: int, fingerprint: int) -> None:
        """The next document of an array: place of its first id, and the others as for `add`."""
        self._rows += ONE_ROW.pack(offset, 0)
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
        self._rows += ONE_ROW.pack(self.size, 0)
        pieces = np.array(self._pieces, PIECE)
        body: list[Buffer] = [self._counts, self._fingerprints, self._rows, pieces.tobytes()]
        crc = 0
        for part in body:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), 1 << 20):
                crc = extend(crc, bytes(view[start : start + (1 << 20)]))
        facts = (ends, len(self), len(pieces), self.size, self.max_id, (tokenizer or "").encode(), crc)
        header = INDEX_HEADER.pack(MAGIC, VERSION, *facts)
        return [header, CHECKSUM.pack(crc32c(header)), *body]


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


def progress(path: Path, size: int) -> tqdm:
    """A progress bar for a shard of `size` bytes that takes seconds to index; without a terminal, a line."""
    is_slow, terminal = size >= _SHOW_PROGRESS, sys.stderr.isatty()
    if is_slow and not terminal:
        print(f"indexing {path} ({size / 1e9:.1f} GB)", file=sys.stderr, flush=True)
    return tqdm(total=size, desc=f"indexing {path.name}", unit="B", unit_scale=True, disable=not (is_slow and terminal))


def build(descriptor: int, path: Path, *, size: int) -> list[Buffer]:
    """Reads and checks a whole shard; returns its index file, in parts. Raises UserError where it is damaged."""
    builder = Builder()
    with progress(path, size) as bar:
        for frames in read_frames(descriptor, path, size=size):
            _add_frames(builder, frames, path)
            bar.update(len(frames.buffer))
    return builder.finish(ends=ends_checksum(descriptor, size), tokenizer=None)


def read_frames(descriptor: int, path: Path, *, size: int) -> Iterator[Frames]:
    """All records of a file of `size` bytes, in order; memory is bounded by CHUNK and the largest record."""
    offset = record = 0
    wanted = CHUNK
    while offset < size:
        buffer = read_at(descriptor, min(wanted, size - offset), offset)
        if len(buffer) < min(wanted, size - offset):
            raise cut_off(path, record, offset, offset + len(buffer))
        starts, stops, crcs = [], [], []
        place, wanted, error = 0, CHUNK, None
        while (start := place + HEADER.size) <= len(buffer):
            length = data_length(buffer[place:start])
            if length is None:
                error = bad_header(path, record + len(starts), offset + place)
                break
            stop = start + length
            if stop + FOOTER.size > len(buffer):
                if offset + stop + FOOTER.size > size:
                    error = cut_off(path, record + len(starts), offset + place, size)
                wanted = max(CHUNK, stop + FOOTER.size - place)
                break
            starts.append(start)
            stops.append(stop)
            crcs.append(crc32c(buffer[start:stop]))
            place = stop + FOOTER.size
        else:
            if place < len(buffer) and offset + len(buffer) == size:
                error = cut_off(path, record + len(starts), offset + place, size)
        found = [buffer[stop : stop + FOOTER.size] for stop in stops]
        if found != (expected := footers(crcs)):
            first = next(number for number, footer in enumerate(found) if footer != expected[number])
            raise bad_data(path, record + first, offset + starts[first] - HEADER.size)
        if error:
            raise error
        if starts:
            yield Frames(buffer[:place], offset, starts, stops)
        record += len(starts)
        offset += place


def _five_byte_varints(buffer: bytes) -> np.ndarray:
    """The places in a buffer of four bytes in a row that end no number: varints which `decode_spans` cannot read."""
    more = np.frombuffer(buffer, np.uint8) >= 0x80
    return (more[:-3] & more[1:-2] & more[2:-1] & more[3:]).nonzero()[0]


def _add_frames(builder: Builder, frames: Frames, path: Path) -> None:
    """Indexes the records of one read."""
    buffer = frames.buffer
    too_long = _five_byte_varints(buffer).tolist()
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
    """Adds documents of one packed list of short varints each, decoding them together."""
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


def save(path: Path, parts: Sequence[Buffer]) -> None:
    """Writes an index file, whole or not at all, while other processes may be writing the same."""
    with storage.new_file(path) as file:
        file.writelines(parts)


def keep(parts: Sequence[Buffer], places: Sequence[Path]) -> Index:
    """The index made of these parts, written to the first of the places that can be, or else in memory."""
    for place in places:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            save(place, parts)
            if index := load_index(place):
                return index
    return in_memory(parts)


def in_memory(parts: Sequence[Buffer]) -> Index:
    """An index that is in no file."""
    contents = b"".join(parts)
    return Index(lambda size, offset: contents[offset : offset + size])


def load_index(path: Path) -> Index | None:
    """The index in a file, memory-mapped; None when the file is missing or damaged. UserError for a later version."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    counts = None
    with contextlib.suppress(OSError):
        if _is_intact(descriptor, path):
            counts = np.memmap(path, "<u4", mode="r", offset=BODY)
    if counts is None:
        os.close(descriptor)
        return None
    index = Index(partial(read_at, descriptor), counts)
    weakref.finalize(index, os.close, descriptor)
    return index


def _is_intact(descriptor: int, path: Path) -> bool:
    """Whether version and checksums are right; the body is read in blocks, so that it takes no memory."""
    header = read_at(descriptor, BODY, 0)
    if len(header) < BODY:
        return False
    facts, own = header[: INDEX_HEADER.size], CHECKSUM.unpack_from(header, INDEX_HEADER.size)[0]
    magic, version, *_, checksum = INDEX_HEADER.unpack(facts)
    if magic == MAGIC and version > VERSION and own == crc32c(facts):  # later versions keep this header
        raise format_version.newer(path, version, known=VERSION)
    crc, offset = 0, BODY
    while part := read_at(descriptor, 1 << 20, offset):
        crc = extend(crc, part)
        offset += len(part)
    return (magic, version, own, checksum) == (MAGIC, VERSION, crc32c(facts), crc)


def ends_checksum(descriptor: int, size: int) -> int:
    """crc32c of the first and the last 4 KiB of a shard."""
    first = read_at(descriptor, min(size, END_BYTES), 0)
    return extend(crc32c(first), read_at(descriptor, min(size, END_BYTES), max(0, size - END_BYTES)))
