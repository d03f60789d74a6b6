"""TFRecord framing: a length, its checksum, the data, its checksum. All is checked; errors name file and offset."""

import functools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from runtime.errors import UserError

HEADER = struct.Struct("<QI")  # length of the data, masked crc32c of these eight bytes
FOOTER = struct.Struct("<I")  # masked crc32c of the data
MASK_DELTA = 0xA282EAD8
OVERHEAD = HEADER.size + FOOTER.size
CHUNK = 1 << 17  # bytes read at a time when going through a shard: what stays in the processor's cache


class Frames(NamedTuple):
    """Consecutive records as read from a file: `buffer[start:stop]` is the data of each, checked."""

    buffer: bytes
    offset: int  # of the buffer in the file
    starts: list[int]
    stops: list[int]


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that checksums of checksums are no weaker."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.lru_cache(maxsize=1 << 14)
def header(length: int) -> bytes:
    """What stands before data of some length. Remembered, because lengths recur."""
    packed = struct.pack("<Q", length)
    return packed + FOOTER.pack(masked_crc32c(packed))


def footers(checksums: Sequence[int]) -> list[bytes]:
    """What stands after data of some crc32c, for each."""
    crcs = np.array(checksums, "<u4")
    masked = (crcs >> 15 | crcs << 17) + np.uint32(MASK_DELTA)
    return masked.view(f"V{FOOTER.size}").tolist()


def damaged(path: Path, record: int, offset: int, cause: str, fix: str = "copy or make the shard again") -> UserError:
    """What to raise about record number `record` (from 0), whose first byte is at `offset` of the file."""
    return UserError(f"{path}: record {record} at byte {offset}: {cause}; {fix}")


def cut_off(path: Path, record: int, offset: int, size: int) -> UserError:
    """What to raise about a record that goes on after the end of the file."""
    return damaged(path, record, offset, f"the shard is cut off, it ends at byte {size} within this record")


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes of a file from `offset`, or as many as there are.

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
        if not _has_header(buffer, 0):
            raise _bad_header(path, record, offset)
        fix = f"delete {path}.index, which will be made again"
        raise damaged(path, record, offset, "the index beside the shard is of another shard", fix)
    if not _has_footer(buffer, HEADER.size, size - FOOTER.size):
        raise _bad_data(path, record, offset)


def read_frames(descriptor: int, path: Path, *, size: int) -> Iterator[Frames]:
    """All records of a file of `size` bytes, in order; memory is bounded by CHUNK and the largest record."""
    offset = record = 0
    wanted = CHUNK
    while offset < size:
        buffer = read_at(descriptor, min(wanted, size - offset), offset)
        if len(buffer) < min(wanted, size - offset):
            raise cut_off(path, record, offset, offset + len(buffer))
        starts, stops = [], []
        place, wanted = 0, CHUNK
        while (start := place + HEADER.size) <= len(buffer):
            if not _has_header(buffer, place):
                raise _bad_header(path, record, offset + place)
            stop = start + HEADER.unpack_from(buffer, place)[0]
            if stop + FOOTER.size > len(buffer):
                if offset + stop + FOOTER.size > size:
                    raise cut_off(path, record, offset + place, size)
                wanted = max(CHUNK, stop + FOOTER.size - place)
                break
            if not _has_footer(buffer, start, stop):
                raise _bad_data(path, record, offset + place)
            starts.append(start)
            stops.append(stop)
            place = stop + FOOTER.size
            record += 1
        else:
            if place < len(buffer) and offset + len(buffer) == size:
                raise cut_off(path, record, offset + place, size)
        if starts:
            yield Frames(buffer[:place], offset, starts, stops)
        offset += place


def _has_header(buffer: bytes, place: int) -> bool:
    return buffer[place : place + HEADER.size] == header(HEADER.unpack_from(buffer, place)[0])


def _has_footer(buffer: bytes, start: int, stop: int) -> bool:
    crc = crc32c(buffer[start:stop])
    return FOOTER.unpack_from(buffer, stop)[0] == ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _bad_header(path: Path, record: int, offset: int) -> UserError:
    if record == 0:
        fix = "give the path of a TFRecord file, or copy or make the shard again"
        return damaged(path, record, offset, "this is not a TFRecord file, or its first bytes are damaged", fix)
    return damaged(path, record, offset, "its length does not fit its checksum, bytes have changed")


def _bad_data(path: Path, record: int, offset: int) -> UserError:
    return damaged(path, record, offset, "its data does not fit its checksum, bytes have changed")
