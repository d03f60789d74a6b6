"""The formats `.npy` and `.npz`: the header of an array, and the unpacking of an archive into a flat array.

A compressed array cannot be read at random: an `.npz` is unpacked once, a part at a time. Python objects are refused.
"""

import contextlib
import errno
import io
import lzma
import os
import re
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from google_crc32c import extend
from numpy.lib import format as npy

from estimator import storage
from estimator.errors import UserError
from estimator.shards.build_index import ends_checksum
from estimator.shards.shard import MAX_ID

HEADER_BYTES = 128  # of the arrays that we write
MOST_HEADER = 10_000  # bytes; NumPy reads no longer ones
LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}  # of a header's length, by the version of the format
# What NumPy raises for headers and types, which are Python literals, beyond the ValueError that it documents.
HEADER_FAULTS = (ValueError, TypeError, IndexError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)
IDS = 1 << 18  # read at a time
_COMMENT = b"vocabulary "  # of an archive that we wrote, before the digest


class Ends(NamedTuple):
    """The id that ends a document; and ids that mean the same in other programs' `.npz`, its name written as text."""

    end_of_text: int
    written: tuple[int, ...] = ()


def layout(path: Path, *, size: int) -> tuple[np.dtype, int, int]:
    """Type, place of the first id, and number of ids of a flat .npy of some bytes."""
    with open(path, "rb") as file:
        dtype, count = _read_header(file, str(path))
        first = file.tell()
    if size != first + count * dtype.itemsize:
        kind = "cut off" if size < first + count * dtype.itemsize else "longer than that"
        raise UserError(
            f"{path} has {size} bytes, but {first + count * dtype.itemsize} by its header of {count} ids: it is "
            f"{kind}; copy or make it again"
        )
    return dtype, first, count


def _read_header(file: IO[bytes], name: str) -> tuple[np.dtype, int]:
    """Type and number of the ids of an array whose header begins here. UserError unless they are ids in one row."""
    try:
        version = npy.read_magic(file)
        if version not in LENGTH_BYTES:
            raise ValueError(f"its version is {version[0]}.{version[1]}")
        length = file.read(LENGTH_BYTES[version])
        if int.from_bytes(length, "little") > MOST_HEADER:  # NumPy would allocate it first
            raise ValueError(f"its header has more than {MOST_HEADER:,} bytes")
        described = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(described)
    except HEADER_FAULTS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name}: this is no .npy array, or its first bytes are damaged ({reason})") from None
    fix = "token ids are integers in one row: save numpy.array(ids, numpy.uint16), or uint32 for larger vocabularies"
    if dtype.hasobject:
        raise UserError(f"{name} holds Python objects, which are not read because that can run any program; {fix}")
    if dtype.kind not in "iu" or len(shape) != 1 or shape[0] < 0:
        raise UserError(f"{name} is an array of {dtype} with the shape {list(shape)}; {fix}")
    return dtype, shape[0]


def unpacked(path: Path, ends: Ends, cache: Path | None) -> tuple[Path, str | None]:
    """The flat array with all of an .npz, made once, end-of-text after each of its arrays; and the vocabulary's digest.

    The fine-tuning scripts of 2019 joined files by the text <|endoftext|>, encoded as its characters; where the file is
    not one of ours, these ids count as an end of text.
    """
    try:
        with _positions_checked(), zipfile.ZipFile(path) as packed:
            is_ours = packed.comment.startswith(_COMMENT)
            digest = packed.comment.removeprefix(_COMMENT).decode("ascii", "replace")
            written = () if is_ours else ends.written
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                content = ends_checksum(file.fileno(), size)
            separators = extend(0, repr((ends.end_of_text, written)).encode())
            target = (cache or path.parent) / f"{path.name}.{size:x}-{content:08x}-{separators:08x}.unpacked.npy"
            if not target.exists():
                print(f"unpacking {path} to {target}, once", file=sys.stderr, flush=True)
                _unpack(packed, path, target, Ends(ends.end_of_text, written))
            return target, digest if re.fullmatch("[0-9a-f]{64}", digest) else None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy or make it again") from None


def _unpack(packed: zipfile.ZipFile, path: Path, target: Path, ends: Ends) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    end = np.array([ends.end_of_text], "<u4")
    with storage.new_file(target) as file:
        file.write(bytes(HEADER_BYTES))
        count = 0
        for member in packed.infolist():
            last = end
            for ids in _member(packed, member, f"{path}, array {member.filename.removesuffix('.npy')}", ends):
                file.write(ids.astype("<u4").tobytes())
                count, last = count + len(ids), ids[-1:] if len(ids) else last
            if last[0] != ends.end_of_text:
                file.write(end.tobytes())
                count += 1
        file.seek(0)
        file.write(header(np.dtype("<u4"), count))


def _member(packed: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, ends: Ends) -> Iterator[np.ndarray]:
    """The ids of an array in parts, with end-of-text where its name is written."""
    marker = np.array(ends.written, np.int64)
    held = np.zeros(0, np.int64)
    with contextlib.ExitStack() as stack:
        with _positions_checked():
            file = stack.enter_context(packed.open(member))
        dtype, count = _read_header(file, name)
        while count:
            data = file.read(dtype.itemsize * min(count, IDS))
            if len(data) < dtype.itemsize * min(count, IDS):
                raise UserError(f"{name} is cut off; copy or make it again")
            ids = np.frombuffer(data, dtype)
            count -= len(ids)
            if ids.min(initial=0) < 0 or ids.max(initial=0) > MAX_ID:
                raise UserError(f"{name} has a token id that is negative or above {MAX_ID}")
            held = np.concatenate([held, ids.astype(np.int64)])
            whole, held = _marked(held, marker, ends.end_of_text, is_last=not count)
            yield whole


@contextlib.contextmanager
def _positions_checked() -> Iterator[None]:
    """Turns a position that no file has, such as -1, into a fault of the archive."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL or error.filename:
            raise
        raise zipfile.BadZipFile("its directory is damaged") from None


def _marked(ids: np.ndarray, marker: np.ndarray, end: int, *, is_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ids with `end` for each run of the marker, and the last of them, in which another may have begun."""
    size = len(marker)
    if not size or len(ids) < size:
        return (ids, ids[:0]) if is_last or not size else (ids[:0], ids)
    found = np.ones(len(ids) - size + 1, bool)
    for place, value in enumerate(marker):
        found &= ids[place : place + len(found)] == value
    starts = found.nonzero()[0]
    done = len(ids) if is_last else max(len(found), int(starts[-1]) + size if len(starts) else 0)
    kept = np.ones(len(ids), bool)
    for place in range(1, size):
        kept[starts + place] = False
    ids = ids.copy()
    ids[starts] = end
    return ids[:done][kept[:done]], ids[done:]


def header(dtype: np.dtype, count: int) -> bytes:
    """Of a flat array, always as long, so that it can be written last."""
    facts = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count},), }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + facts.ljust(length - 1).encode() + b"\n"


def comment(digest: str | None) -> bytes:
    """Of an archive that we write: that it is ours, and the vocabulary's digest."""
    return _COMMENT + (digest or "").encode()
