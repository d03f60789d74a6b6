"""Writes small TensorFlow checkpoints."""

import struct

import ml_dtypes
import numpy as np
from google_crc32c import value as crc32c

from estimator.interop.tf_checkpoint import DTYPES, MAGIC

NUMBERS = {np.dtype(name): number for number, name in DTYPES.items()} | {np.dtype(ml_dtypes.bfloat16): 14}


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(n: int) -> bytes:
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: dict[bytes, bytes], compression: int = 0) -> bytes:
    body = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in entries.items())
    body += struct.pack("<II", 0, 1) + bytes([compression])
    return body + masked(body)


def write_bundle(prefix, arrays, *, compression=0, partitioned=False, dtype=None, magic=MAGIC, header=True):
    """Writes a checkpoint according to TensorFlow's format description, independently of our reader."""
    data, entries = b"", {b"": field(1, 1)} if header else {}
    for name, array in sorted(arrays.items()):
        stored = array.tobytes()
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        entry = field(1, dtype or NUMBERS[array.dtype]) + field(2, shape) + field(4, len(data))
        entry += field(5, len(stored)) + b"\x35" + masked(stored) + (field(7, b"") if partitioned else b"")
        entries[name.encode()] = entry
        data += stored
    first, meta = block(entries, compression), block({})
    index = block({b"~": varint(0) + varint(len(first) - 5)})
    handles = [len(first), len(meta) - 5, len(first) + len(meta), len(index) - 5]
    footer = b"".join(map(varint, handles)).ljust(40, b"\0") + struct.pack("<Q", magic)
    prefix.with_name(prefix.name + ".index").write_bytes(first + meta + index + footer)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
