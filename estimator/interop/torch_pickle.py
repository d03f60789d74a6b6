"""Files of torch.save, without PyTorch: the tensors in them, and nothing that could run.

A file is a pickle whose tensors refer to storages: since PyTorch 1.6 members of a zip, before that appended in order.
The unpickler here knows dicts, lists, numbers, text and tensors. Objects of the libraries that trainers save with their
weights become empty `Unread` ones, for which nothing of the library is imported; any other class is refused.
"""

import io
import mmap
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # comes with JAX
import numpy as np

from estimator.errors import UserError
from estimator.storage import lfs

OLD_MAGIC = 0x1950A86A20F9469CFC6C
# Types under their names in torch. Storages are called after them, or have none ("UntypedStorage", sizes in bytes).
DTYPES = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": ml_dtypes.bfloat16, "int64": "<i8",
    "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?", "uint16": "<u2", "uint32": "<u4",
    "uint64": "<u8", "complex64": "<c8", "complex128": "<c16", "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
UNTYPED = "UntypedStorage"
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", UNTYPED: "uint8",
}  # fmt: skip
# Packages whose objects trainers save: settings, paths, types, random states.
UNREAD = ("argparse", "collections", "pathlib", "numpy", "torch", "pytorch_lightning", "lightning",
          "lightning_fabric", "omegaconf", "transformers", "accelerate", "deepspeed", "types", "enum", "__main__",
          "datetime", "typing", "_codecs")  # fmt: skip
WRAPPERS = ("model_state_dict", "state_dict", "model", "module", "net", "weights")  # keys of what holds a state dict
LONGEST_PICKLE = 1 << 28  # bytes; one of a large model with its optimizer has about a million
DAMAGE = (
    pickle.UnpicklingError, EOFError, LookupError, AttributeError, ValueError, TypeError, zipfile.BadZipFile,
    zlib.error, struct.error, MemoryError, OverflowError, AssertionError, OSError,
    RuntimeError,  # of zipfile, for a member that is encrypted or of another version
)  # fmt: skip


class Unread:
    """An object of another library: its class's name is known, nothing of it is read or run."""

    def __init__(self, *arguments: Any, **settings: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass


class Recorder:
    """The recorder of metrics in a checkpoint of affjljoo3581/GPT2: plain numbers and text."""


class _Storage(NamedTuple):
    kind: str
    key: str
    size: int  # elements

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(DTYPES[STORAGES[self.kind]]).itemsize


class Tensor(NamedTuple):
    """A tensor of the file, read when `array` is called. dtype: a key of DTYPES. stride: in elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    read: Callable[[_Storage], bytes]

    def array(self) -> np.ndarray:
        """bfloat16 and float8 come as float32, which holds every value of them.

        Raises ValueError when the storage is too short.
        """
        stored = np.dtype(DTYPES[self.dtype])
        data = self.read(self.storage)
        values = np.frombuffer(data, stored, count=len(data) // stored.itemsize)
        if stored.isbuiltin == 2:  # a type of ml_dtypes, which as_strided does not take
            values = values.astype("<f4")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if min(self.shape, default=0) < 0 or (
            0 not in self.shape and not (0 <= self.offset <= last < len(values) and min(self.stride, default=0) >= 0)
        ):
            raise ValueError(f"a tensor {list(self.shape)} extends beyond its storage of {len(values)} numbers")
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
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
        except DAMAGE as error:
            raise UserError(f"{self._path}: {name} cannot be read ({error}); copy or download the file again") from None


def read(path: str | Path) -> Any:
    """The object in a file of torch.save, with a `Tensor` for each tensor.

    Raises UserError when the file is damaged, or its pickle asks for anything but tensors and plain values.
    """
    path = Path(path)
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    except DAMAGE as error:
        lfs.refuse_pointer(path)
        raise UserError(
            f"{path} is no file of torch.save, or it is damaged ({error or type(error).__name__}); download it again"
        ) from None


def state_dict(contents: Any, path: str | Path) -> Tensors:
    """The tensors of a state dict, whether it is the contents of the file or wrapped under a key of WRAPPERS."""
    while isinstance(contents, dict):
        inner = next((contents[key] for key in WRAPPERS if isinstance(contents.get(key), dict)), None)
        if inner is None:
            break
        contents = inner
    if not isinstance(contents, dict) or not any(isinstance(value, Tensor) for value in contents.values()):
        raise UserError(
            f"{path} holds no tensors by name; save the model's state_dict() with torch.save, or as safetensors"
        )
    tensors = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    return Tensors(tensors, path=str(path))


class _Unpickler(pickle.Unpickler):
    """Knows how tensors are pickled, and refuses all names but those of `UNREAD`."""

    def __init__(self, file: Any, path: Path, read: Callable[[_Storage], bytes]):
        super().__init__(file, encoding="utf-8")
        self._path, self._read = path, read
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch._utils" and name == "_rebuild_tensor_v3":
            return self._typed_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return name
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("gpt2.training.recording", "Recorder"):
            return Recorder
        if module.split(".")[0] in UNREAD:
            return type("Unread", (Unread,), {})
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
        return self._typed_tensor(storage, offset, shape, stride, False, None, STORAGES[storage.kind])

    def _typed_tensor(
        self, storage: _Storage, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
    ) -> Tensor:
        if not isinstance(storage, _Storage) or not isinstance(dtype, str) or dtype not in DTYPES:
            raise pickle.UnpicklingError("a tensor of an unknown type")
        return Tensor(storage, dtype, int(offset), tuple(map(int, shape)), tuple(map(int, stride)), self._read)


def _load(file: Any, path: Path, read: Callable[[_Storage], bytes]) -> tuple[Any, _Unpickler]:
    """The next pickle of a file that ends where its data end, such as BytesIO, and its unpickler."""
    start = file.tell()
    for operations, (operation, argument, _) in enumerate(pickletools.genops(file), 1):
        # The C unpickler makes room for as many objects as the largest number that it is to remember one under.
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > operations:
            raise pickle.UnpicklingError(f"operation {operations} remembers an object as number {argument}")
        if file.tell() - start > LONGEST_PICKLE:
            raise pickle.UnpicklingError(f"a pickle of more than {LONGEST_PICKLE:,} bytes")
    file.seek(start)
    unpickler = _Unpickler(file, path, read)
    return unpickler.load(), unpickler


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, whose checksum is verified. torch.save stores without compression, which bounds its size."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise pickle.UnpicklingError(f"{name} is compressed, which torch.save never does")
    return archive.read(name)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise pickle.UnpicklingError("no data.pkl in it")
        folder = pickled[0].removesuffix("data.pkl")

        def storage(wanted: _Storage) -> bytes:
            with zipfile.ZipFile(path) as archive:
                return _member(archive, f"{folder}data/{wanted.key}")

        return _load(io.BytesIO(_member(archive, pickled[0])), path, storage)[0]


def _read_old(path: Path) -> Any:
    """Magic, version, system and the object, each a pickle; then a list of storages, and their bytes in that order."""
    places: dict[str, int] = {}

    def storage(wanted: _Storage) -> bytes:
        with open(path, "rb") as file:
            file.seek(places[wanted.key])
            return file.read(wanted.nbytes)

    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if _load(file, path, storage)[0] != OLD_MAGIC:
            raise pickle.UnpicklingError("its first number is not PyTorch's")
        _load(file, path, storage), _load(file, path, storage)
        contents, unpickler = _load(file, path, storage)
        for key in _load(file, path, storage)[0]:
            size = int.from_bytes(file.read(8), "little")
            places[str(key)] = file.tell()
            kept = unpickler.storages[str(key)]
            if size < kept.size:
                raise pickle.UnpicklingError(f"storage {key} is shorter than its tensors")
            stop = file.tell() + kept._replace(size=size).nbytes
            if stop > len(file):
                raise EOFError("cut off")
            file.seek(stop)
    return contents
