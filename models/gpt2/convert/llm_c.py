"""Model files of llm.c (.bin): a header of 256 int32 numbers, then all parameters in a fixed order.

After karpathy/llm.c, gpt2_write in train_gpt2.py. Version 1 has float32 and no padding of the vocabulary, version 3
float32 and version 5 bfloat16, both with the token embedding padded to a multiple of 128 rows.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from estimator.errors import UserError

MAGIC, TOKENS_MAGIC = 20240326, 20240520  # of model files, of files of tokens
HEADER = 256
DTYPES = {1: "<f4", 3: "<f4", 5: ml_dtypes.bfloat16}
Shape = tuple[int, ...]


def magic(path: Path) -> int:
    """The first int32 of a file."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(4), "little")


class ModelFile(Mapping[str, np.ndarray]):
    """The parameters of a model file under the names of nanoGPT, read when asked for; bfloat16 comes as float32."""

    def __init__(self, path: Path):
        """Raises UserError where the file is of another kind or version, or has another size than its header says."""
        self._path = path
        with open(path, "rb") as file:
            data = file.read(4 * HEADER)
        header = np.frombuffer(data, "<i4", count=len(data) // 4)
        if len(header) < HEADER or header[0] != MAGIC or header[1] not in DTYPES:
            raise UserError(f"{path} is no model file of llm.c of version 1, 3 or 5, or it is cut off; copy it again")
        version, self.n_ctx, self.n_vocab, layers, self.n_head, width = map(int, header[1:7])
        rows = self.n_vocab if version == 1 else int(header[7])
        if not all(0 < n <= 1 << 24 for n in (self.n_ctx, self.n_vocab, layers, self.n_head, width)) or (
            not self.n_vocab <= rows <= 1 << 24
        ):
            raise UserError(f"{path}: the sizes in its header cannot be right; copy it again")
        self._dtype = np.dtype(DTYPES[version])
        tensors = _tensors(self.n_ctx, rows, layers, width)
        size = 4 * HEADER + self._dtype.itemsize * sum(math.prod(shape) * count for _, shape, count in tensors)
        if size != path.stat().st_size:  # before the layers, which may be millions, are listed
            raise UserError(f"{path} should have {size:,} bytes and has {path.stat().st_size:,}; copy it again")
        self._places: dict[str, tuple[int, Shape]] = {}
        start = 4 * HEADER
        for name, shape, count in tensors:
            for layer in range(count):
                self._places[name.format(layer)] = (start, shape)
                start += math.prod(shape) * self._dtype.itemsize

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> Shape:
        """The shape of a parameter, the embedding's without its padding."""
        shape = self._places[name][1]
        return (self.n_vocab, *shape[1:]) if name == "wte.weight" else shape

    def __getitem__(self, name: str) -> np.ndarray:
        start, shape = self._places[name]
        array = np.memmap(self._path, self._dtype, mode="r", offset=start, shape=shape)
        return array[: self.shape(name)[0]].astype(np.float32, copy=False)


def _tensors(n_ctx: int, rows: int, layers: int, width: int) -> list[tuple[str, Shape, int]]:
    """Name, shape and number of each parameter, in the order of the file; matrices are [outputs, inputs]."""
    block = [
        ("ln_1.weight", (width,)), ("ln_1.bias", (width,)), ("attn.c_attn.weight", (3 * width, width)),
        ("attn.c_attn.bias", (3 * width,)), ("attn.c_proj.weight", (width, width)), ("attn.c_proj.bias", (width,)),
        ("ln_2.weight", (width,)), ("ln_2.bias", (width,)), ("mlp.c_fc.weight", (4 * width, width)),
        ("mlp.c_fc.bias", (4 * width,)), ("mlp.c_proj.weight", (width, 4 * width)), ("mlp.c_proj.bias", (width,)),
    ]  # fmt: skip
    return [
        ("wte.weight", (rows, width), 1),
        ("wpe.weight", (n_ctx, width), 1),
        *((f"h.{{}}.{name}", shape, layers) for name, shape in block),
        ("ln_f.weight", (width,), 1),
        ("ln_f.bias", (width,), 1),
    ]
