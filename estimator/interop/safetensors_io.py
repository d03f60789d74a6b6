"""safetensors files: read lazily and written tensor by tensor, so that a model is never in memory twice.

The safetensors library checks the header, which is all that the format lets one check, and gives types and shapes. The
tensors are memory-mapped here: the library copies each (ten times slower, measured with 0.8.0), and cannot give float8
to NumPy. Its writer takes all tensors of a file together, so a model would have to be in memory as a whole; this one
asks for one at a time. Format: eight bytes with the length of a JSON header, the header, the tensors.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # comes with JAX
import numpy as np
from safetensors import SafetensorError, safe_open

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.storage import lfs

BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "C64": "<c8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
Shape = tuple[int, ...]


class TensorLocation(NamedTuple):
    """Number of the file, type in the format's words, shape, and offset in the file (bytes) of a tensor."""

    file: int
    dtype: str
    shape: Shape
    offset: int


class SafeTensors(Mapping[str, np.ndarray]):
    """The tensors of one or several files by name; bfloat16 and float8 come as float32, which holds their values."""

    def __init__(self, paths: Sequence[str | Path]):
        """Reads the headers. Raises UserError where a file is damaged, cut off or something else."""
        self.paths = [Path(path) for path in paths]
        self._tensors: dict[str, TensorLocation] = {}
        for number, path in enumerate(self.paths):
            tensors = _read_header(path, number)
            for name in tensors.keys() & self._tensors:
                raise UserError(f"{path}: {name} is in {self.paths[self._tensors[name].file]} too; keep one of them")
            self._tensors |= tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> Shape:
        return self._tensors[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        stored = np.dtype(DTYPES[tensor.dtype])
        if 0 in tensor.shape:
            array = np.zeros(tensor.shape, stored)
        else:
            array = np.memmap(self.paths[tensor.file], stored, mode="r", offset=tensor.offset, shape=tensor.shape)
        return array.astype("<f4") if stored.isbuiltin == 2 else array


def _read_header(path: Path, number: int) -> dict[str, TensorLocation]:
    tensors: dict[str, TensorLocation] = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.offset_keys():
                entry = file.get_slice(name)
                tensors[name] = TensorLocation(number, entry.get_dtype(), tuple(entry.get_shape()), 0)
    except SafetensorError as error:
        lfs.refuse_pointer(path)
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(f"{path} is not a safetensors file, or not a whole one ({reason}); download it again") from None
    offset = path.stat().st_size
    for name, entry in reversed(tensors.items()):  # the library has checked that they fill the file up to its end
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{path}: {name} has the type {entry.dtype}, which is not supported; save it as F32 or BF16"
            )
        offset -= math.prod(entry.shape) * np.dtype(DTYPES[entry.dtype]).itemsize
        tensors[name] = entry._replace(offset=offset)
    return tensors


def convert(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in a type of the format; bfloat16 is rounded to the nearest, and given as its bits."""
    if dtype != BFLOAT16:
        return np.asarray(array, DTYPES[dtype], order="C")  # which leaves a scalar a scalar
    return np.asarray(array.astype(ml_dtypes.bfloat16), order="C").view("<u2")


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

    arrays: returns the tensor of a name, called once for each in turn. progress: called with the bytes of each.
    """
    width = np.dtype(DTYPES[dtype]).itemsize
    stops = list(itertools.accumulate(math.prod(shape) * width for shape in shapes.values()))
    starts = [0, *stops][: len(stops)]
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for (name, shape), *span in zip(shapes.items(), starts, stops, strict=True):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with storage.new_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            array = convert(arrays(name), dtype)
            assert array.shape == shape, (name, array.shape, shape)
            file.write(array.data.cast("B") if array.size else b"")
            progress(array.nbytes)


def files(folder: Path, index: str, whole: str) -> list[Path]:
    """The files of a model that may be cut in several: those that the index names, or the one that is whole.

    Empty when neither exists. Raises UserError when a file of the index is missing.
    """
    if (folder / whole).is_file():
        return [folder / whole]
    if not (folder / index).is_file():
        return []
    try:
        names: Iterable[str] = json_text.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
        parts = [folder / Path(name).name for name in sorted(set(names))]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{folder / index} is not the index of a model in several files; download it again") from None
    for part in parts:
        if not part.is_file():
            raise UserError(f"{part} is missing, and {index} names it; download it again")
    return parts
