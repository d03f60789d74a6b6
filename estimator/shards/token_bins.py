"""Token files of other programs, `.bin`: nanoGPT's, llm.c's and Megatron's; the positions and types of their ids.

nanoGPT (data/*/prepare.py): uint16 ids and nothing else (uint32 where its users have larger vocabularies); meta.pkl in
the same folder has the vocabulary's size. llm.c (dev/data/data_common.py): 256 int32, the first a magic number, the
second its version, the third the number of ids, then uint16 or, for llama 3's vocabulary, uint32; its first version
wrote int32 ids and nothing else. Megatron (core/datasets/indexed_dataset.py): ids alone, with the type and the
documents that NAME.idx describes.
"""

import pickletools
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from estimator.errors import UserError

SUFFIX = ".bin"
_LLM_C = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}  # magic: version, type
_LLM_C_HEADER, _LLM_C_EVALUATION = 256 * 4, 20240522
_MEGATRON = b"MMIDIDX\0\0"
_MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_MEGATRON_HEADER = struct.Struct("<9sQBQQ")
_META_BYTES = 1 << 24
# First bytes of weights, which have the same ending.
_OTHERS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"GGUF", b"lmgg")
_SAMPLE_IDS = 1 << 12
# So many ids tell whether they have four bytes or two, if they are below 2**20.
_FEWEST_IDS, _UPPER = 64, 16


class Layout(NamedTuple):
    """dtype: of the ids. first: place of the first in bytes. starts: number of each document's first id, if known."""

    dtype: np.dtype
    first: int
    starts: np.ndarray | None = None


def described_by(path: Path) -> tuple[Path, Path]:
    """Where Megatron's index and nanoGPT's description of a token file would be."""
    return path.with_suffix(".idx"), path.with_name("meta.pkl")


def layout(path: Path, *, size: int) -> Layout:
    """Of a file of some bytes. UserError where it is cut off, or is no token file."""
    with open(path, "rb") as file:
        head = file.read(max(_LLM_C_HEADER, 2 * _SAMPLE_IDS))
    if head.startswith(_OTHERS):
        raise UserError(f"{path}: weights or a packed file, no token ids; name train.bin and val.bin alone")
    index, _ = described_by(path)
    if index.is_file():
        return _megatron(path, index, size=size)
    magic, version, count = struct.unpack("<3i", head[:12]) if len(head) >= 12 else (0, 0, 0)
    if magic == _LLM_C_EVALUATION:
        raise UserError(f"{path}: llm.c's examples for an evaluation, no text; leave it out")
    if magic in _LLM_C and size >= _LLM_C_HEADER:
        expected, dtype = _LLM_C[magic]
        if version != expected:
            raise UserError(f"{path}: a token file of llm.c of version {version}, where {expected} is known")
        count %= 1 << 32
        if size != _LLM_C_HEADER + count * dtype.itemsize:
            raise UserError(f"{path} has {size} bytes, but {_LLM_C_HEADER + count * dtype.itemsize} by its header of "
                            f"{count} ids; copy or make it again")  # fmt: skip
        return Layout(dtype, _LLM_C_HEADER)
    if size % 2:
        raise UserError(f"{path} has {size} bytes, which are no ids of two bytes; copy or make it again")
    return Layout(np.dtype("<i4" if size % 4 == 0 and _has_four_bytes(head) else "<u2"), 0)


def _has_four_bytes(head: bytes) -> bool:
    """Whether ids without a header have four bytes each: as upper halves are 0, or small next to varied lower ones."""
    lower, upper = np.frombuffer(head[: len(head) // 4 * 4], "<u2").reshape(-1, 2).T
    if not upper.any():
        return bool(lower.any())
    return len(upper) >= _FEWEST_IDS and upper.max() < _UPPER <= lower.max() // _UPPER


def _megatron(path: Path, index: Path, *, size: int) -> Layout:
    data = index.read_bytes()
    try:
        magic, version, code, sequences, documents = _MEGATRON_HEADER.unpack_from(data)
        if magic != _MEGATRON or version != 1 or code not in _MEGATRON_TYPES:
            raise ValueError(f"magic {magic!r}, version {version}, type {code}")
        at = _MEGATRON_HEADER.size
        if len(data) - (at + 12 * sequences + 8 * documents) not in (0, sequences):  # with a mode for each, or without
            raise ValueError(f"{len(data)} bytes for {sequences} sequences and {documents} documents")
        sizes = np.frombuffer(data, "<i4", sequences, at).astype(np.int64)
        borders = np.frombuffer(data, "<i8", documents, at + 12 * sequences)
        stops = np.concatenate([[0], sizes.cumsum()])
        dtype = np.dtype(_MEGATRON_TYPES[code])
        if (
            (sizes < 0).any()
            or (borders < 0).any()
            or (borders > sequences).any()
            or stops[-1] * dtype.itemsize != size
        ):
            raise ValueError(f"{stops[-1]} ids, where {path.name} has {size} bytes")
    except (struct.error, ValueError) as error:
        raise UserError(
            f"{index}: not Megatron's index of {path.name}, or damaged ({error}); copy or make both again"
        ) from (None)
    return Layout(dtype, 0, np.unique(stops[borders]))


def vocabulary_size(path: Path) -> int | None:
    """The vocabulary described by nanoGPT's meta.pkl in the folder of a .bin; the pickle is scanned, never executed."""
    _, meta = described_by(path)
    if path.suffix != SUFFIX or not meta.is_file():
        return None
    if meta.stat().st_size > _META_BYTES:
        raise UserError(f"{meta}: larger than any meta.pkl of nanoGPT; move it away if it is another program's")
    is_next = False
    try:
        for opcode, value, _ in pickletools.genops(meta.read_bytes()):
            if opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                continue
            if is_next and isinstance(value, int) and value > 0:
                return value
            is_next = value == "vocab_size"
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{meta}: not nanoGPT's meta.pkl, or damaged ({error}); copy or make it again") from None
    return None
