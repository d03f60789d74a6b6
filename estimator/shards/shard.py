"""Reads the documents of a shard at random, by its index; every record is checked against its checksum.

The index, `NAME.tfrecords.index`, has the positions of documents, so that any token is found in constant time. Layout
(little-endian): a header; for each document its token count (u32); for each its fingerprint (u32); for each a row (u64
offset of its record, u32 place of its varints within the data, 0 when these must be parsed) and one more row for the
end of the shard; the pieces of long documents. The header and the rest carry checksums. An index belongs to the shard
whose size and whose first and last 4 KiB it knows, so that a shard copied with its index keeps it.
"""

import itertools
import os
import struct
import weakref
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from estimator.shards.damage import cut_off, damaged
from estimator.shards.framing import FOOTER, HEADER, check_frame, decode_spans, decode_varints, read_at
from estimator.shards.tf_example import BadExample, all_tokens, parse_example

MAX_ID = int(np.iinfo(np.int32).max)
# Documents with more bytes are read by pieces, each with its own checksum: a window of a book does not read the book.
LONG_BYTES = 1 << 18
END_BYTES = 1 << 12
MAGIC, VERSION = b"GPT2TFRI", 1
# magic, version, ends, documents, pieces, bytes of the shard, max id, tokenizer, checksum of the rest; then its own
INDEX_HEADER = struct.Struct("<8sIIQQQq64sI")
CHECKSUM = struct.Struct("<I")
BODY = INDEX_HEADER.size + CHECKSUM.size
ROW = np.dtype([("offset", "<u8"), ("payload", "<u4")])
ONE_ROW, _TWO_ROWS = struct.Struct("<QI"), struct.Struct("<QIQI")
PIECE = np.dtype([("document", "<u4"), ("checksum", "<u4"), ("token", "<u8"), ("offset", "<u8")])

Buffer = bytes | bytearray | array
Read = Callable[[int, int], bytes]  # (size, offset) -> the bytes there


class Index:
    """Positions and properties of a shard's documents.

    tokenizer: digest or None; max_id: the largest token id, -1 without any; size, ends: the shard it belongs to.
    token_counts: uint32 [documents]; pieces: the pieces of long documents, and for each of these a last one at its end.
    """

    def __init__(self, read: Read, token_counts: np.ndarray | None = None):
        header = INDEX_HEADER.unpack(read(INDEX_HEADER.size, 0))
        _, _, self.ends, self.documents, pieces, self.size, self.max_id, tokenizer, _ = header
        self.tokenizer: str | None = tokenizer.rstrip(b"\0").decode() or None
        self._read = read
        self._fingerprints = BODY + 4 * self.documents
        self._rows = self._fingerprints + 4 * self.documents
        end = self._rows + ROW.itemsize * (self.documents + 1)
        self.pieces = np.frombuffer(read(PIECE.itemsize * pieces, end), PIECE)
        counts = np.frombuffer(read(4 * self.documents, BODY), "<u4") if token_counts is None else token_counts
        self.token_counts = counts[: self.documents]

    @property
    def fingerprints(self) -> np.ndarray:
        """uint32 [documents], read from the file at each call."""
        return np.frombuffer(self._read(4 * self.documents, self._fingerprints), "<u4")

    def row(self, document: int) -> tuple[int, int, int]:
        """Offset of a document's record, of the next one, and position of its varints in its data (0: unknown)."""
        rows = self._read(_TWO_ROWS.size, self._rows + ROW.itemsize * document)
        offset, payload, end, _ = _TWO_ROWS.unpack(rows)
        return offset, end, payload


class RecordSpan(NamedTuple):
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

    def span(self, document: int, start: int = 0, stop: int | None = None) -> RecordSpan:
        """What `tokens` gives, read and checked, to be decoded together with others."""
        count = int(self.token_counts[document])
        stop = count if stop is None else min(stop, count)
        if start >= stop:
            return RecordSpan(b"", 0, 0)
        if 4 * count > LONG_BYTES:
            pieces = self._index.pieces
            first, last = np.searchsorted(pieces["document"], [document, document + 1])
            if first < last:
                return self._from_pieces(document, pieces[first:last], start, stop)
        record, payload, offset = self._record(document)
        if not payload:
            return RecordSpan(self._parse(record, document, offset)[1], start, stop - start)
        text = HEADER.size + payload
        # An id has at most four bytes here, and what follows the wanted ones need not be decoded.
        return RecordSpan(record[text : min(text + 4 * stop, len(record) - FOOTER.size)], start, stop - start)

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

    def _from_pieces(self, document: int, pieces: np.ndarray, start: int, stop: int) -> RecordSpan:
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
        return RecordSpan(b"".join(parts), start - int(pieces["token"][first]), stop - start)


def decode(spans: Sequence[RecordSpan]) -> list[np.ndarray]:
    """int32: the ids of each document; reading many short ones together takes a fraction of the time."""
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
