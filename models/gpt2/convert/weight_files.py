"""Which files a path means, and of what kind they are: by their contents, whatever they are called."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from estimator.errors import UserError
from estimator.interop import safetensors_io, tf_checkpoint
from models.gpt2.convert import llm_c

Kind = Literal["tensorflow", "safetensors", "pytorch", "hdf5", "llm.c"]
WHOLE = ("model.safetensors", "pytorch_model.bin", "model.pt", "ckpt.pt")  # in a folder, the first of these is read
# Names of weights' files, and of files that a trainer saves next to them.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".hdf5", ".h5")
OTHERS = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|trainer_state|adapter_model|tf_model)\b")
PART = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
NOT_READ = {
    "adapter_config.json": "an adapter of peft without its model; load both with peft, call merge_and_unload() and"
    " save_pretrained(), and name that folder",
    "saved_model.pb": "a SavedModel of TensorFlow",
    "keras_metadata.pb": "a model of Keras",
    "tf_model.h5": "a model of Keras; open it with an older transformers and call save_pretrained()",
    "flax_model.msgpack": "a model of Flax; open it with an older transformers and call save_pretrained()",
}
ADVICE = "; save the weights as safetensors (save_pretrained) or with tf.train.Saver"


class WeightFiles(NamedTuple):
    """kind: of all paths, which are the parts of one model; of "tensorflow" the one path is the prefix."""

    kind: Kind
    paths: list[Path]
    folder: Path


def find(path: Path) -> WeightFiles:
    """The weights at a path. Raises UserError where there are none, or they are of a kind that is not read."""
    path = _inner(path)
    if prefix := tf_checkpoint.find(path):
        return WeightFiles("tensorflow", [prefix], prefix.parent)
    if not path.is_dir():
        paths = _parts(path)
        return WeightFiles(_kind(path), paths, path.parent)
    for name in WHOLE:
        whole = path / name
        if files := safetensors_io.files(path, f"{name}.index.json", name):
            return WeightFiles(_kind(files[0]), files, path)
        if whole.is_file():
            return WeightFiles(_kind(whole), [whole], path)
    for name, kind in NOT_READ.items():
        if (path / name).is_file():
            raise UserError(f"init_from: {path} holds {kind}{'' if ';' in kind else ADVICE}")
    files = [file for file in path.iterdir() if file.suffix in WEIGHTS and not OTHERS.match(file.name)]
    hdf5 = sorted((file for file in files if file.suffix in (".hdf5", ".h5") and file.stat().st_size), key=_step)
    files = hdf5[-1:] or sorted(file for file in files if file.stat().st_size)
    if files and len({PART.sub(r"\1", file.name) for file in files}) == 1:
        return WeightFiles(_kind(files[0]), _parts(files[0]), path)
    if files:
        names = ", ".join(file.name for file in files[:6])
        raise UserError(f"init_from: {path} holds several files of weights ({names}); name one of them")
    for file in path.iterdir():
        if tf_checkpoint.is_version_1(file):
            raise UserError(_version_1(file))
    if not any(path.iterdir()):
        raise UserError(f"init_from: {path} is an empty folder; name one that holds weights, or copy them into it")
    raise UserError(
        f"init_from: {path} holds no weights that can be read: no checkpoint of ours or of TensorFlow, no safetensors, "
        "no PyTorch (.bin, .pt, .pth, .ckpt, .pkl), no hdf5 file and no model of llm.c; name the folder or file of one"
    )


def _inner(path: Path) -> Path:
    """The folder with the weights: of a model in the Hub's cache the snapshot in use, of a Trainer's the newest."""
    if (path / "snapshots").is_dir():
        main = path / "refs" / "main"
        named = (
            path / "snapshots" / (main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else "")
        )
        snapshots = [folder for folder in (path / "snapshots").iterdir() if folder.is_dir()]
        if main.is_file() and named.is_dir():
            return named
        if len(snapshots) == 1:
            return snapshots[0]
        names = ", ".join(sorted(folder.name for folder in snapshots)) or "none"
        raise UserError(f"init_from: {path} holds several snapshots or none ({names}); name the folder of one")
    if not path.is_dir() or any(file.suffix in WEIGHTS and not OTHERS.match(file.name) for file in path.iterdir()):
        return path
    steps = [folder for folder in path.glob("checkpoint-*") if folder.is_dir() and folder.name[11:].isdigit()]
    return max(steps, key=lambda folder: int(folder.name[11:]), default=path)


def _step(file: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", file.stem)
    return (int(digits[-1]) if digits else -1, file.name)


def _parts(path: Path) -> list[Path]:
    """All files of the model that a file is a part of, by their numbered names; else the file alone."""
    named = PART.fullmatch(path.name)
    if not named:
        return [path]
    count = int(named[2])
    parts = [path.with_name(f"{named[1]}-{n:05d}-of-{named[2]}{named[3]}") for n in range(1, min(count, 10**4) + 1)]
    for part in parts:
        if not part.is_file():
            raise UserError(f"{part} is missing, a part of the model in {path.name}; copy or download it again")
    return parts


def _kind(path: Path) -> Kind:
    """The kind of a file by its first bytes. Raises UserError where it is of none."""
    with open(path, "rb") as file:
        first = file.read(16)
    if path.suffix == ".keras":
        raise UserError(f"init_from: {path} is a model of Keras{ADVICE}")
    if first.startswith(b"\x89HDF") or path.suffix in (".hdf5", ".h5"):
        return "hdf5"
    if first[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    magic = llm_c.magic(path)
    if magic == llm_c.MAGIC:
        return "llm.c"
    if magic == llm_c.TOKENS_MAGIC:
        raise UserError(f"init_from: {path} is a file of tokens of llm.c; name a model's file, or set it as data_path")
    if first.startswith(b"GGUF"):
        raise UserError(f"init_from: {path} is GGUF, which is not read; name the folder that it was converted from")
    if tf_checkpoint.is_version_1(path):
        raise UserError(_version_1(path))
    if first.startswith((b"PK\x03\x04", b"\x80")) or path.suffix in WEIGHTS:
        return "pytorch"
    raise UserError(
        f"init_from: {path} is no file of weights that can be read: neither safetensors, PyTorch, hdf5 nor llm.c, "
        "and no TensorFlow checkpoint"
    )


def _version_1(path: Path) -> str:
    return (
        f"init_from: {path} is a TensorFlow checkpoint of version 1, a format that ended in 2016; read it with "
        "tf.compat.v1.train.Saver and save it with write_version=tf.compat.v1.train.SaverDef.V2"
    )
