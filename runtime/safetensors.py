"""safetensors files: read lazily and written tensor by tensor, so that a model is never in memory twice.

Eight bytes give the length of a JSON header, which says type, shape and place of each tensor; then the tensors' bytes.
The format has no checksums: header and size of the file are checked when it is opened. After the description at
huggingface.co/docs/safetensors.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import UserError

LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where a tensor lies: number of the file, type in the format's words, shape, first byte."""

    file: int
    dtype: str
    shape: Shape
    offset: int


class SafeTensors(Mapping[str, np.ndarray]):
    """The tensors of one or several files by name; bfloat16 comes as float32, which holds every value of it."""

    def __init__(self, paths: Sequence[str | Path]):
        """Reads the headers. Raises UserError where a file is damaged, cut off or something else."""
        self.paths = [Path(path) for path in paths]
        self.places: dict[str, Place] = {}
        for number, path in enumerate(self.paths):
            for name, place in _read_header(path, number).items():
                if name in self.places:
                    raise UserError(f"{path}: {name} is in {self.paths[self.places[name].file]} too; keep one of them")
                self.places[name] = place

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def shape(self, name: str) -> Shape:
        return self.places[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        place = self.places[name]
        stored = DTYPES[place.dtype]
        if 0 in place.shape:
            return np.zeros(place.shape, "<f4" if place.dtype == BFLOAT16 else stored)
        array = np.memmap(self.paths[place.file], stored, mode="r", offset=place.offset, shape=place.shape)
        if place.dtype == BFLOAT16:  # the upper half of a float32
            return (array.astype("<u4") << 16).view("<f4")
        return array


def _read_header(path: Path, number: int) -> dict[str, Place]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise UserError(f"{path} is no safetensors file, or it is cut off; download it again")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
            places = {
                name: Place(number, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
                for name, entry in header.items()
                if name != "__metadata__"
            }
            stops = {name: 8 + length + header[name]["data_offsets"][1] for name in places}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{path}: its header is not a safetensors header; download it again") from None
    place = 8 + length
    for name, entry in sorted(places.items(), key=lambda item: (item[1].offset, stops[item[0]])):
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{path}: {name} has the type {entry.dtype}, which is not supported; save it as F32 or BF16"
            )
        width = np.dtype(DTYPES[entry.dtype]).itemsize
        if entry.offset != place or stops[name] != place + math.prod(entry.shape) * width:
            raise UserError(f"{path}: the header's places of {name} cannot be right; download the file again")
        place = stops[name]
    if place != size:
        raise UserError(f"{path} should have {place:,} bytes and has {size:,}; download it again")
    return places


def convert(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in a type of the format; bfloat16 is rounded to the nearest, and given as its bits."""
    if dtype != BFLOAT16:
        return np.ascontiguousarray(array, DTYPES[dtype])
    import ml_dtypes  # comes with JAX

    return np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)).view("<u2")


def write(
    path: str | Path,
    shapes: Mapping[str, Shape],
    arrays: Callable[[str], np.ndarray],
    *,
    dtype: str,
    metadata: Mapping[str, str],
    progress: Callable[[int], object] = lambda size: None,
) -> None:
    """Writes all tensors, in the order of `shapes`, in one type; the file appears under its name when it is complete.

    arrays: gives the tensor of a name when its turn has come. progress: is told the bytes of each.
    """
    width = np.dtype(DTYPES[dtype]).itemsize
    stops = list(itertools.accumulate(math.prod(shape) * width for shape in shapes.values()))
    starts = [0, *stops[:-1]]
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for (name, shape), *span in zip(shapes.items(), starts, stops, strict=True):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            array = convert(arrays(name), dtype)
            assert array.shape == shape, (name, array.shape, shape)
            file.write(array.data.cast("B") if array.size else b"")
            progress(array.nbytes)


def files(folder: Path, index: str, whole: str) -> list[Path]:
    """The files of a model that may be cut in several: those that the index names, or the one that is whole.

    Empty when neither is there; a UserError when a file of the index is missing.
    """
    if (folder / whole).is_file():
        return [folder / whole]
    if not (folder / index).is_file():
        return []
    try:
        names: Iterable[str] = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
        parts = [folder / Path(name).name for name in sorted(set(names))]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{folder / index} is not the index of a model in several files; download it again") from None
    for part in parts:
        if not part.is_file():
            raise UserError(f"{part} is missing, and {index} names it; download it again")
    return parts


class _replacing:
    """A file for writing that takes its name when all went well, and is removed otherwise."""

    def __init__(self, path: str | Path):
        self._path, self._temporary = Path(path), Path(f"{path}.tmp")

    def __enter__(self) -> Any:
        self._file = open(self._temporary, "wb")
        return self._file

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
