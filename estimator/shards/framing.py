"""The bytes of a shard: TFRecord's frames, and the ids in them.

A frame is a length, its checksum, the data, its checksum. All is checked; errors name file and offset. Ids are varints
of seven bits a byte, lowest first, whose top bit says "more follows". Many are decoded at a time: every byte whose
predecessor ends a number starts one, the four bytes from there are gathered as one word and folded.
"""

import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c

from estimator.shards.damage import bad_data, bad_header, cut_off, damaged

HEADER = struct.Struct("<QI")  # length of the data, masked crc32c of these eight bytes
FOOTER = struct.Struct("<I")  # masked crc32c of the data
MASK_DELTA = 0xA282EAD8
OVERHEAD = HEADER.size + FOOTER.size
FAST_LIMIT = 1 << 28  # ids below it take at most four bytes, which is what this decoder reads


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that checksums of checksums are no weaker."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.lru_cache(maxsize=1 << 14)
def header(length: int) -> bytes:
    """The header of a record of some length; cached, because lengths recur."""
    packed = struct.pack("<Q", length)
    return packed + FOOTER.pack(masked_crc32c(packed))


@functools.lru_cache(maxsize=1 << 14)
def data_length(found: bytes) -> int | None:
    """The bytes of data that a header announces, or None where its checksum does not fit; cached like `header`."""
    length: int = HEADER.unpack(found)[0]
    return length if found == header(length) else None


def footers(checksums: Sequence[int]) -> list[bytes]:
    """The footers of records, from the crc32c of their data."""
    crcs = np.array(checksums, "<u4")
    masked = (crcs >> 15 | crcs << 17) + np.uint32(MASK_DELTA)
    return masked.view(f"V{FOOTER.size}").tolist()


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Reads `size` bytes of a file from `offset`, or as many as remain.

    Shards are read with pread and not mapped into memory: a mapped file that another process shortens kills the reader
    with SIGBUS, and the pages that it has touched count as its own memory. pread also needs no lock between threads.
    """
    parts = [os.pread(descriptor, size, offset)]
    missing = size - len(parts[0])
    while missing and parts[-1]:  # one call reads at most 2 GiB
        parts.append(os.pread(descriptor, missing, offset + size - missing))
        missing -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_frame(buffer: bytes, size: int, *, path: Path, record: int, offset: int) -> None:
    """Raises UserError unless the buffer is one whole record of `size` bytes.

    record, offset: its number and its place in the file, for the error.
    """
    if len(buffer) < size:
        raise cut_off(path, record, offset, offset + len(buffer))
    if not buffer.startswith(header(size - OVERHEAD)):
        if data_length(buffer[: HEADER.size]) is None:
            raise bad_header(path, record, offset)
        fix = f"move {path}.index elsewhere, and a new one is made"
        raise damaged(path, record, offset, "the index next to the shard belongs to another shard", fix)
    stop = size - FOOTER.size
    if FOOTER.unpack_from(buffer, stop)[0] != masked_crc32c(buffer[HEADER.size : stop]):
        raise bad_data(path, record, offset)


# Varints.


def decode_varints(buffer: bytes, start: int, stop: int) -> np.ndarray:
    """The integers in `buffer[start:stop]` as int32, for varints of at most four bytes.

    The byte before `start` must end a number (the last byte of a length does), and three bytes must follow `stop`.
    """
    return _decode(buffer, start, stop)[1]


def decode_spans(buffer: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes a whole buffer that holds several lists of varints, with other bytes between them.

    starts: int64 [lists], where the lists begin, each after a byte that ends a number.
    Returns values int32, the place in `buffer` where each value begins, and for each list the index of its first value.
    Bytes between the lists give meaningless values. The last three bytes are not read.
    """
    first = int(starts[0])
    places, values = _decode(buffer, first, len(buffer) - 3)
    places += first
    return values, places, np.searchsorted(places, starts)


def _decode(buffer: bytes, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    begins = np.frombuffer(buffer, np.uint8, stop - start, start - 1) < 0x80
    places = begins.nonzero()[0]
    # The word that begins at every byte. Copied first, because a gather from unaligned words takes twice as long.
    words = np.ndarray((stop - start,), "<u4", buffer, start, (1,)).copy().take(places)
    _fold(words)
    return places, words.view(np.int32)


def _fold(words: np.ndarray) -> None:
    """Turns words that hold a varint in their low bytes, and whatever follows it above, into its value; in place."""
    mask = words | 0x7F7F7F7F
    low = mask + 1  # the carry stops at the first byte without "more follows": they differ up to there
    mask ^= low
    words &= mask
    np.bitwise_and(words, 0x007F007F, out=low)
    words &= 0x7F007F00
    words >>= 1
    words |= low
    np.bitwise_and(words, 0x3FFF, out=low)
    words >>= 2
    words &= 0x0FFFC000
    words |= low
