"""Files of torch.save, without PyTorch: the tensors in them, and nothing that could run.

A file is a pickle whose tensors refer to storages: since PyTorch 1.6 members of a zip, before that appended in order.
The unpickler here knows dicts, lists, numbers, text and tensors; whatever else a pickle asks for is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import UserError

OLD_MAGIC = 0x1950A86A20F9469CFC6C
BFLOAT16 = "BFloat16Storage"
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", BFLOAT16: "<u2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


class _Storage(NamedTuple):
    kind: str
    key: str
    size: int  # elements


class Tensor(NamedTuple):
    """A tensor of the file, read when `array` is called. stride: in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    read: Callable[[_Storage], bytes]

    def array(self) -> np.ndarray:
        """bfloat16 comes as float32, which holds every value of it. Raises ValueError when the storage is too short."""
        values = np.frombuffer(self.read(self.storage), STORAGES[self.storage.kind])
        if self.storage.kind == BFLOAT16:
            values = (values.astype("<u4") << 16).view("<f4")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if 0 not in self.shape and not (0 <= self.offset <= last < len(values) and min(self.stride, default=0) >= 0):
            raise ValueError(f"a tensor {list(self.shape)} goes beyond its storage of {len(values)} numbers")
        strides = [step * values.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a state dict by name, each read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], *, path: str):
        self._tensors, self._path = dict(tensors), path

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._tensors[name].array()
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{self._path}: {name} cannot be read ({error}); copy or download the file again") from None


def read(path: str | Path) -> Any:
    """The object in a file of torch.save, with a `Tensor` for each tensor.

    Raises UserError when the file is damaged, or its pickle asks for anything but tensors and plain values.
    """
    path = Path(path)
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, AttributeError, ValueError, TypeError,
            UnicodeDecodeError, zipfile.BadZipFile, MemoryError, OverflowError) as error:  # fmt: skip
        raise UserError(
            f"{path} is no file of torch.save, or it is damaged ({error or type(error).__name__}); download it again"
        ) from None


def state_dict(path: str | Path) -> Tensors:
    """The tensors of a state dict, be it the whole file or under the key `state_dict` or `model` of it."""
    contents = read(path)
    for key in ("state_dict", "model"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if not isinstance(contents, dict) or not any(isinstance(value, Tensor) for value in contents.values()):
        raise UserError(f"{path} holds no tensors by name; give the file of a state dict")
    tensors = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    return Tensors(tensors, path=str(path))


class _Unpickler(pickle.Unpickler):
    """Knows how tensors are pickled, and refuses all other names."""

    def __init__(self, file: Any, path: Path, read: Callable[[_Storage], bytes]):
        super().__init__(file, encoding="utf-8")
        self._path, self._read = path, read
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return name
        raise UserError(
            f"{self._path} asks for {module}.{name} when it is opened, so it is more than a file of tensors and could "
            "run anything; save its state_dict() alone with torch.save, or as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        mark, kind, key, _, size, *_ = pid
        if mark != "storage" or kind not in STORAGES:
            raise pickle.UnpicklingError(f"a storage of the kind {kind}")
        return self.storages.setdefault(str(key), _Storage(kind, str(key), int(size)))

    def _tensor(self, storage: _Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> Tensor:
        assert isinstance(storage, _Storage), storage
        return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)), self._read)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise pickle.UnpicklingError("no data.pkl in it")
        folder = pickled[0].removesuffix("data.pkl")

        def storage(wanted: _Storage) -> bytes:
            with zipfile.ZipFile(path) as archive:  # which verifies the checksum of what it reads
                return archive.read(f"{folder}data/{wanted.key}")

        with archive.open(pickled[0]) as file:
            return _Unpickler(file, path, storage).load()


def _read_old(path: Path) -> Any:
    """Magic, version, system and the object, each a pickle; then a list of storages, and their bytes in that order."""
    places: dict[str, int] = {}

    def storage(wanted: _Storage) -> bytes:
        with open(path, "rb") as file:
            file.seek(places[wanted.key])
            return file.read(wanted.size * np.dtype(STORAGES[wanted.kind]).itemsize)

    with open(path, "rb") as file:

        def load() -> tuple[Any, _Unpickler]:
            unpickler = _Unpickler(file, path, storage)
            return unpickler.load(), unpickler

        if load()[0] != OLD_MAGIC:
            raise pickle.UnpicklingError("its first number is not PyTorch's")
        load(), load()
        contents, unpickler = load()
        keys = load()[0]
        for key in keys:
            size = int.from_bytes(file.read(8), "little")
            places[str(key)] = file.tell()
            kept = unpickler.storages[str(key)]
            if size < kept.size:
                raise pickle.UnpicklingError(f"storage {key} is shorter than its tensors")
            file.seek(size * np.dtype(STORAGES[kept.kind]).itemsize, 1)
        if file.tell() > path.stat().st_size:
            raise EOFError("cut off")
    return contents
