"""TensorFlow's checkpoints (V2, "tensor bundle") without TensorFlow: read lazily, every checksum verified.

`PREFIX.index` is a sorted table (LevelDB's format) from names to the positions of tensors in the data files
`PREFIX.data-00000-of-00001`. These are mapped into memory: a tensor is read when it is asked for. After
tensorflow/core/util/tensor_bundle and tensorflow/core/lib/io/table_format.txt.
"""

import glob
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from estimator.errors import UserError
from estimator.shards.framing import MASK_DELTA

FOOTER = 48  # bytes: handles of the metaindex and the index, zeros, eight bytes of magic
MAGIC = 0xDB4775248B80FB57
TRAILER = 5  # bytes after a block: its compression, masked crc32c of block and compression
CHUNK = 1 << 22  # bytes that are checked at a time
STATE = "checkpoint"  # the text file that names the newest of a folder
STRING, BFLOAT16 = 7, 14
# Numbers of tensorflow/core/framework/types.proto.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 17: "<u2", 19: "<f2",
          22: "<u4", 23: "<u8"}  # fmt: skip
OTHER_TYPES = {7: "text", 8: "complex64", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16",
               18: "complex128", 20: "a resource, such as an iterator", 21: "a variant, such as an iterator or a list",
               24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4"}  # fmt: skip
FETCH_AGAIN = "copy or download the checkpoint again"


class Entry(NamedTuple):
    """Position of a tensor. dtype: TensorFlow's number of its type. crc: masked."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    partitioned: bool


class Bundle(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name; an array is read, and its checksum verified, when it is asked for.

    bfloat16 comes as float32, which holds every value of it.
    """

    def __init__(self, prefix: str | Path):
        """Reads the index. Raises UserError when it is damaged, or a data file is missing or too short."""
        self.prefix = str(prefix)
        self.index = Path(f"{prefix}.index")
        table = dict(_read_table(self.index))
        header = table.pop(b"", None)
        if header is None:
            raise UserError(f"{self.index}: has no header entry, so it is no TensorFlow checkpoint; {FETCH_AGAIN}")
        fields = self._fields(header, key="header")
        if fields.get(2, [0])[0]:
            raise UserError(f"{self.index}: was written on a big-endian machine, which is not supported")
        shards = fields.get(1, [1])[0]
        self.files = [Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
        self.entries = {name.decode("utf-8", "replace"): self._entry(name, value) for name, value in table.items()}
        for name, entry in self.entries.items():
            self._check_entry(name, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        if entry.dtype != BFLOAT16 and entry.dtype not in DTYPES:
            kind = OTHER_TYPES.get(entry.dtype, f"number {entry.dtype}")
            raise UserError(f"{self.index}: {name} has the type {kind}, which is not read; save it as float32")
        stored = self._map(entry)
        crc = 0
        for start in range(0, entry.size, CHUNK):
            crc = google_crc32c.extend(crc, stored[start : start + CHUNK].tobytes())
        if _masked(crc) != entry.crc:
            raise UserError(
                f"{self.files[entry.shard]}: {name}, {entry.size:,} bytes from byte {entry.offset}, does not fit its "
                f"checksum, bytes have changed; {FETCH_AGAIN}"
            )
        if entry.dtype == BFLOAT16:  # the upper half of a float32
            return (stored.view("<u2").astype("<u4") << 16).view("<f4").reshape(entry.shape)
        return stored.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def _map(self, entry: Entry) -> np.ndarray:
        """The bytes of a tensor, mapped only while it is used, so that pages already read do not stay in memory."""
        if not entry.size:
            return np.zeros(0, np.uint8)
        return np.memmap(self.files[entry.shard], np.uint8, mode="r", offset=entry.offset, shape=(entry.size,))

    def _entry(self, name: bytes, value: bytes) -> Entry:
        fields = self._fields(value, key=repr(name.decode("utf-8", "replace")))

        def number(field: int) -> int:
            return fields.get(field, [0])[0]

        dims = []
        for shape in fields.get(2, []):
            for dim in self._fields(shape, key=repr(name)).get(2, []):
                dims.append(self._fields(dim, key=repr(name)).get(1, [0])[0])
        return Entry(number(1), tuple(dims), number(3), number(4), number(5), number(6), 7 in fields)

    def _fields(self, message: Any, *, key: str) -> dict[int, list[Any]]:
        try:
            return _protobuf(message)
        except (IndexError, ValueError, TypeError, struct.error):
            raise UserError(f"{self.index}: the entry of {key} cannot be read; {FETCH_AGAIN}") from None

    def _check_entry(self, name: str, entry: Entry) -> None:
        if entry.partitioned:
            raise UserError(
                f"{self.index}: {name} is a partitioned variable, which is not supported; save the checkpoint "
                "without a partitioner"
            )
        if not 0 <= entry.shard < len(self.files):
            raise UserError(f"{self.index}: {name} is in data file {entry.shard} of {len(self.files)}; {FETCH_AGAIN}")
        file = self.files[entry.shard]
        if not file.is_file():
            raise UserError(f"{file} is missing, and {name} is in it; put it into the folder of {self.index.name}")
        size = file.stat().st_size
        if entry.offset + entry.size > size:
            raise UserError(
                f"{file} has {size:,} bytes, but {name} is at bytes {entry.offset} to {entry.offset + entry.size}: "
                f"it is cut off; {FETCH_AGAIN}"
            )
        width = 2 if entry.dtype == BFLOAT16 else np.dtype(DTYPES.get(entry.dtype, "u1")).itemsize
        if (entry.dtype == BFLOAT16 or entry.dtype in DTYPES) and math.prod(entry.shape) * width != entry.size:
            raise UserError(f"{self.index}: {name} {list(entry.shape)} cannot take {entry.size} bytes; {FETCH_AGAIN}")


def find(path: str | Path) -> Path | None:
    """The prefix of the checkpoint at a path (a prefix, one of its files, or a folder); None where there is none.

    In a folder, the file `checkpoint` names the newest; without it, the one with the highest step is taken.
    """
    path = Path(path)
    named = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    if path.with_name(f"{named}.index").is_file():
        return path.with_name(named)
    if path.name == STATE and path.is_file():
        path = path.parent
    if not path.is_dir():
        return None
    state = path / STATE
    if state.is_file():
        found = re.search(
            r'^model_checkpoint_path: "([^"]+)"', state.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
        # Written with an absolute path on another machine; the checkpoint is still in the folder of its list.
        if found and (path / Path(found[1]).name).with_name(f"{Path(found[1]).name}.index").is_file():
            return path / Path(found[1]).name

    def step(index: Path) -> tuple[int, str]:
        digits = re.search(r"(\d+)\.index$", index.name)
        return (int(digits[1]) if digits else -1, index.name)

    there = sorted(path.glob("*.index"), key=step)
    there = [index for index in there if list(path.glob(f"{glob.escape(index.stem)}.data-*-of-*"))]
    return there[-1].with_suffix("") if there else None


def is_version_1(path: Path) -> bool:
    """Whether a file is a checkpoint of TensorFlow's first format, one sorted table with names, shapes and values."""
    if not path.is_file() or path.suffix == ".index" or path.stat().st_size < FOOTER:
        return False
    with open(path, "rb") as file:
        file.seek(-8, 2)
        return int.from_bytes(file.read(8), "little") == MAGIC


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a sorted table, in order."""
    data = path.read_bytes()
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise UserError(
            f"{path} is not the index of a TensorFlow checkpoint, or it is cut off: its last 8 bytes, from byte "
            f"{max(len(data) - 8, 0)}, are not the format's mark; {FETCH_AGAIN}"
        )
    footer, place, handles = data[-FOOTER:-8], 0, []
    try:
        for _ in range(4):
            number, place = _varint(footer, place)
            handles.append(number)
    except (IndexError, ValueError):
        raise _damaged(path, len(data) - FOOTER, "the footer") from None
    if any(footer[place:]):
        raise _damaged(path, len(data) - FOOTER, "the footer")
    for _ in _block(path, data, *handles[:2]):
        pass  # no entries are written there; its checksum is verified
    blocks = dict(_block(path, data, *handles[2:]))
    for handle in blocks.values():
        offset, place = _varint(handle, 0)
        yield from _block(path, data, offset, _varint(handle, place)[0])


def _block(path: Path, data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of one block: (bytes shared with the previous key, new bytes, size of the value, both)."""
    stop = offset + size
    if stop + TRAILER > len(data) - FOOTER:
        raise _damaged(path, offset, "a block extends past the end, the block")
    compression = data[stop]
    if int.from_bytes(data[stop + 1 : stop + TRAILER], "little") != _masked(
        google_crc32c.value(data[offset : stop + 1])
    ):
        raise _damaged(path, offset, f"the block of {size} bytes")
    if compression:
        raise UserError(
            f"{path}: the block at byte {offset} is compressed (kind {compression}), which TensorFlow's own writer "
            "never does; save the checkpoint with tf.train.Saver"
        )
    restarts = int.from_bytes(data[stop - 4 : stop], "little")
    end, place, key = stop - 4 * (restarts + 1), offset, b""
    try:
        while place < end:
            shared, place = _varint(data, place)
            new, place = _varint(data, place)
            length, place = _varint(data, place)
            key = key[:shared] + data[place : place + new]
            yield key, data[place + new : place + new + length]
            place += new + length
    except (IndexError, ValueError):
        raise _damaged(path, offset, f"the block of {size} bytes") from None


def _damaged(path: Path, offset: int, what: str) -> UserError:
    return UserError(f"{path}: {what} at byte {offset} does not fit its checksum, bytes have changed; {FETCH_AGAIN}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, lowest first; and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _protobuf(message: bytes) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number: integers, or bytes. Raises IndexError or ValueError."""
    fields: dict[int, list[Any]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == 0:
            value, place = _varint(message, place)
        elif tag & 7 == 2:
            size, place = _varint(message, place)
            value, place = message[place : place + size], place + size
        elif tag & 7 in (1, 5):
            size = 8 if tag & 7 == 1 else 4
            value, place = int.from_bytes(message[place : place + size], "little"), place + size
        else:
            raise ValueError(f"wire type {tag & 7}")
        if place > len(message):
            raise ValueError("cut off")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
