"""TFRecord framing: a length, its checksum, the data, its checksum. All is checked; errors name file and offset."""

import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c

from estimator.errors import UserError

HEADER = struct.Struct("<QI")  # length of the data, masked crc32c of these eight bytes
FOOTER = struct.Struct("<I")  # masked crc32c of the data
MASK_DELTA = 0xA282EAD8
OVERHEAD = HEADER.size + FOOTER.size


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that checksums of checksums are no weaker."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.lru_cache(maxsize=1 << 14)
def header(length: int) -> bytes:
    """The header of a record of some length; cached, because lengths recur."""
    packed = struct.pack("<Q", length)
    return packed + FOOTER.pack(masked_crc32c(packed))


def footers(checksums: Sequence[int]) -> list[bytes]:
    """The footers of records, from the crc32c of their data."""
    crcs = np.array(checksums, "<u4")
    masked = (crcs >> 15 | crcs << 17) + np.uint32(MASK_DELTA)
    return masked.view(f"V{FOOTER.size}").tolist()


def damaged(path: Path, record: int, offset: int, cause: str, fix: str = "copy or make the shard again") -> UserError:
    """What to raise about record number `record` (from 0), whose first byte is at `offset` of the file."""
    return UserError(f"{path}: record {record} at byte {offset}: {cause}; {fix}")


def cut_off(path: Path, record: int, offset: int, size: int) -> UserError:
    """The error for a record that extends past the end of the file."""
    return damaged(path, record, offset, f"the shard is cut off, it ends at byte {size} within this record")


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
        if not has_header(buffer, 0):
            raise bad_header(path, record, offset)
        fix = f"move {path}.index elsewhere, and a new one is made"
        raise damaged(path, record, offset, "the index next to the shard belongs to another shard", fix)
    if not has_footer(buffer, HEADER.size, size - FOOTER.size):
        raise bad_data(path, record, offset)


def has_header(buffer: bytes, place: int) -> bool:
    return buffer[place : place + HEADER.size] == header(HEADER.unpack_from(buffer, place)[0])


def has_footer(buffer: bytes, start: int, stop: int) -> bool:
    crc = crc32c(buffer[start:stop])
    return FOOTER.unpack_from(buffer, stop)[0] == ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def bad_header(path: Path, record: int, offset: int) -> UserError:
    if record == 0:
        fix = (
            'give the path of a TFRecord file, or copy or make the shard again; text is trained on with "input": "text"'
        )
        return damaged(path, record, offset, "this is not a TFRecord file, or its first bytes are damaged", fix)
    return damaged(path, record, offset, "its length does not fit its checksum, bytes have changed")


def bad_data(path: Path, record: int, offset: int) -> UserError:
    return damaged(path, record, offset, "its data does not fit its checksum, bytes have changed")
