"""Where weights can come from: TensorFlow checkpoints, Hugging Face folders, PyTorch and hdf5 files, runs of ours.

`open_source` finds out what a path is; each kind gives its tensors lazily, by name, and the layout of those names.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.gpt2 import gpt2, hf, slots, tuning, weights
from models.gpt2.weights import Layout
from runtime import local_copies, pytorch_file, run_folder, safetensors, storage, tensor_bundle
from runtime.errors import UserError
from runtime.released import FOLDER, folder_name

# Entries of a TensorFlow checkpoint beside the model's variables and their averages.
OTHERS = re.compile(r"global_step|beta[12]_power|_CHECKPOINTABLE_OBJECT_GRAPH")
CHECKPOINTS = "checkpoints"  # in the folder of a run
COPIES_GB = 1e6  # of what lies in buckets: as much as the disk holds
HDF5 = (".hdf5", ".h5")
PYTORCH = (".bin", ".pt", ".pth")


class _Config(tuning.TuningConfig, gpt2.GPT2Config):
    """The keys of a run that say which parameters it has."""


class Source(NamedTuple):
    """Weights somewhere else.

    name: what it is and where, for people. arrays: tensors by name, read when asked for. shapes: of all of them.
    n_head: attention heads, which no tensor tells; None where nothing does. vocabulary: a folder that may hold one.
    step: how far it was trained, where that is known. optimizer: whose averages it has, or None. untied: whether its
    output matrix is another than its embedding.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    layout: Layout
    n_head: int | None = None
    vocabulary: Path | None = None
    step: int | None = None
    optimizer: str | None = None
    untied: bool = False


def open_source(where: str) -> Source:
    """The weights at a path, or the downloaded ones of a name. Raises UserError when there are none.

    What is in a bucket is copied to this machine first, but for the checkpoints of a run of ours.
    """
    if _is_run(where):
        return _run(where)
    path = Path(_here(where))
    if not path.exists() and tensor_bundle.find(path) is None:
        path = Path(FOLDER) / folder_name(where)
        if not path.exists():
            raise UserError(
                f"init_from: {where} is neither a file or folder here nor a model that was downloaded; for a released "
                f"one, run `python3 download_model.py {where}` first"
            )
    if prefix := tensor_bundle.find(path):
        return _tensorflow(prefix)
    if path.is_dir():
        if files := safetensors.files(path, "model.safetensors.index.json", "model.safetensors"):
            return _safetensors(files, path)
        if files := safetensors.files(path, "pytorch_model.bin.index.json", "pytorch_model.bin"):
            return _pytorch(files, path)
        if (path / "model.pt").is_file():  # of lopuhin's trainer
            return _pytorch([path / "model.pt"], path)
        hdf5 = sorted((file for file in path.glob("*") if file.suffix in HDF5 and file.stat().st_size), key=_step)
        if hdf5:
            return _hdf5(hdf5[-1])
    elif path.suffix == ".safetensors":
        return _safetensors([path], path.parent)
    elif path.suffix in PYTORCH:
        return _pytorch([path], path.parent)
    elif path.suffix in HDF5:
        return _hdf5(path)
    raise UserError(
        f"init_from: {path} holds no weights that can be read: no checkpoint of ours or of TensorFlow, no safetensors, "
        "no PyTorch (.bin, .pt, .pth) and no hdf5 file"
    )


def _is_run(folder: str) -> bool:
    paths = [storage.join(folder, name) for name in (run_folder.CONFIG, CHECKPOINTS)]
    return storage.is_file(paths[0]) and storage.is_folder(paths[1])


def _here(where: str) -> str:
    """The path, or that of its copy when it is in a bucket: of a folder, a prefix, or a file and those beside it."""
    if not storage.is_remote(where):
        return where
    fetch = partial(local_copies.local, limit_gb=COPIES_GB)
    if storage.is_file(where):
        return fetch(where, siblings=True)
    return fetch(where) if storage.is_folder(where) else fetch(f"{where}.*").removesuffix(".*")


def _step(file: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", file.stem)
    return (int(digits[-1]) if digits else -1, file.name)


def _tensorflow(prefix: Path) -> Source:
    bundle = tensor_bundle.Bundle(prefix)
    layout = weights.TENSORFLOW._replace(
        ignored=lambda name: bool(OTHERS.fullmatch(name) or slots.SLOT.search(name)),
    )
    return Source(
        f"TensorFlow checkpoint {prefix}",
        bundle,
        {name: bundle.shape(name) for name in bundle},
        layout,
        n_head=_hints(prefix.parent / "hparams.json").get("n_head"),
        vocabulary=prefix.parent,
        step=int(bundle["global_step"]) if "global_step" in bundle else None,
        optimizer=slots.optimizer_of(bundle),
    )


def _safetensors(files: list[Path], folder: Path) -> Source:
    tensors = safetensors.SafeTensors(files)
    return _hugging_face(tensors, {name: tensors.shape(name) for name in tensors}, folder, files[0])


def _hugging_face(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], folder: Path, file: Path
) -> Source:
    known = (folder / "config.json").is_file()
    config = hf.read_config(folder / "config.json") if known else {}
    layout = hf.layout(shapes)
    embedding, tied = layout.name("wte", None), config.get("tie_word_embeddings", True)
    untied = hf.HEAD in shapes and embedding in shapes and not np.array_equal(arrays[hf.HEAD], arrays[embedding])
    if untied and known and tied:
        raise UserError(f"{file}: {hf.HEAD} differs from {embedding}, and config.json ties them; correct one of both")
    if not tied and hf.HEAD not in shapes:
        raise UserError(f"{file} has no {hf.HEAD}, and config.json unties it from the embedding; download it again")
    name = f"Hugging Face folder {folder}"
    return Source(name, arrays, shapes, layout, n_head=config.get("n_head"), vocabulary=folder, untied=untied)


class _Several(Mapping[str, np.ndarray]):
    """The tensors of several files together, without a prefix that PyTorch's parallel training leaves."""

    def __init__(self, parts: list[pytorch_file.Tensors]):
        self._where = {name.removeprefix("module."): (part, name) for part in parts for name in part}

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, name: str) -> np.ndarray:
        part, full = self._where[name]
        return part[full]

    def shape(self, name: str) -> tuple[int, ...]:
        part, full = self._where[name]
        return part.shape(full)


def _pytorch(files: list[Path], folder: Path) -> Source:
    """Hugging Face's names, or lopuhin's; affjljoo3581's model is another."""
    arrays = _Several([pytorch_file.state_dict(file) for file in files])
    shapes = {name: arrays.shape(name) for name in arrays}
    if any(name.startswith(("transformers.", "positional_embedding")) for name in shapes):
        raise UserError(
            f"{files[0]} is of affjljoo3581/GPT2, whose feed-forward layers use Swish and not GELU (older ones "
            "normalise the residual stream too): its weights mean another function here and cannot be taken over"
        )
    if not any(name.startswith("blocks.") for name in shapes):
        return _hugging_face(arrays, shapes, folder, files[0])
    hints = _hints(folder / "params.json").get("hparams", {})
    name = f"PyTorch file {files[0]} (transformer-lm)"
    return Source(name, arrays, shapes, Layout(_lopuhin_name, transposed=True), hints.get("n_head"), folder)


def _lopuhin_name(path: str, layer: int | None) -> str:
    parts = path.split("/")
    if len(parts) == 1:
        parts.append("weight")
    elif not parts[-2].startswith("ln_"):
        parts[-1] = {"w": "weight", "b": "bias"}[parts[-1]]
    return ".".join(parts if layer is None else ["blocks", str(layer), *parts[1:]])


def _hdf5(path: Path) -> Source:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: reading hdf5 needs h5py: pip install -r requirements-export.txt") from None

    arrays: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name.removesuffix(":0")] = item

    try:
        h5py.File(path, "r").visititems(visit)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no hdf5 file, or it is damaged ({error}); copy it again") from None
    shapes = {name: tuple(item.shape) for name, item in arrays.items()}
    layout = weights.TENSORFLOW._replace(ignored=lambda name: not name.startswith("model/") or "/Adam" in name)
    return Source(f"hdf5 file {path}", arrays, shapes, layout, vocabulary=path.parent)


def _run(folder: str) -> Source:
    """The newest checkpoint of a run of ours: its parameters, on this process's first device."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from runtime import params
    from runtime.checkpoints import NOT_SAVED, Checkpoints

    values = run_folder.read_config(folder)
    config = _Config(**{key: values[key] for key in _Config.model_fields if key in values})
    specs = gpt2.parameters(config)
    place = NamedSharding(Mesh(np.asarray(jax.local_devices()[:1]), ("host",)), PartitionSpec())
    shapes = {"step": jax.ShapeDtypeStruct((), np.int32), "params": params.abstract(tuning.parameters(config))}
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    checkpoints = Checkpoints(storage.join(folder, CHECKPOINTS))
    if checkpoints.latest_step is None:
        raise UserError(f"init_from: {folder} holds no checkpoint yet; train there first")
    state = checkpoints.restore({**template, "optimizer": NOT_SAVED})
    checkpoints.close()
    arrays = weights.to_tensorflow(tuning.merged(state["params"], config), specs)
    encoder = values.get("encoder_path")
    return Source(
        f"run {folder}",
        arrays,
        {name: array.shape for name, array in arrays.items()},
        weights.TENSORFLOW,
        n_head=config.heads,
        vocabulary=Path(_here(encoder)) if encoder else None,
        step=int(state["step"]),
        untied=config.untied_head,
    )


def _hints(path: Path) -> dict[str, Any]:
    """What a small JSON file beside the weights says of the model; nothing where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
