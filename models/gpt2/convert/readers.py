"""Where weights can come from: TensorFlow checkpoints, Hugging Face folders, PyTorch and hdf5 files, runs of ours.

`open_source` detects the format of a path; each reader gives its tensors lazily, by name, and the names' layout.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from estimator import invocation, json_text, storage
from estimator.errors import UserError, import_failed
from estimator.interop import gpt2_config, safetensors_io, tf_checkpoint, torch_pickle
from estimator.interop.hub import FOLDER, folder_name
from estimator.storage import cache_root, data_cache
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import run_dir, run_vocabulary
from estimator.training.checkpoint_reader import restore
from models.gpt2 import lora, model
from models.gpt2.convert import hf, llm_c, name_maps, tf_opt_state, unwrap, weight_files
from models.gpt2.convert.name_maps import NameMap
from models.gpt2.convert.weight_files import WeightFiles

# Entries of a TensorFlow checkpoint other than the model's variables and their averages.
OTHERS = re.compile(r"global_step|beta[12]_power|_CHECKPOINTABLE_OBJECT_GRAPH")
CHECKPOINTS = "checkpoints"  # in the folder of a run
COPIES_GB = 1e6  # copies of remote weights: as much as the disk holds
HDF5_DEPTH, HDF5_GROUPS = 16, 10_000  # more than groups in each other, and groups, of any such model
_HDF5_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, AttributeError, MemoryError)
OBJECT_BASED = "/.ATTRIBUTES/VARIABLE_VALUE"
# nanoGPT's files do not say which of the two it computed: exact GELU, or until 2023 the approximation.
NANOGPT = {"activation": ("gelu", "gelu_new")}


class _Config(lora.FineTuneConfig, model.GPT2Config):
    """The keys of a run that say which parameters it has."""


class CheckpointReader(NamedTuple):
    """Weights somewhere else.

    name: format and path, for messages. arrays: tensors by name, read when asked for. shapes: of all of them.
    settings: keys of the model and the values that they must have for these weights; a tuple of several where nothing
    says which. vocabulary: a folder that may hold one. left_out: entries of the file that are no part of the model.
    step: how far it was trained, where that is known. optimizer: whose averages it has, or None. untied: whether its
    output matrix is another than its embedding.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    layout: NameMap
    settings: Mapping[str, Any] = {}
    vocabulary: Path | None = None
    left_out: tuple[str, ...] = ()
    step: int | None = None
    optimizer: str | None = None
    untied: bool = False


def open_source(where: str) -> CheckpointReader:
    """The weights at a path, or those downloaded by name. Raises UserError when there are none.

    Files in a bucket are copied to this machine first, except the checkpoints of a run of ours.
    """
    if _is_run(where):
        return _run(where)
    files = _files(where)
    if files.kind == "tensorflow":
        return _tensorflow(files.paths[0])
    if files.kind == "hdf5":
        return _hdf5(files.paths[0])
    if files.kind == "llm.c":
        model_file = llm_c.ModelFile(files.paths[0])
        shapes = {name: model_file.shape(name) for name in model_file}
        name, layout = f"llm.c's file {files.paths[0]}", hf.layout("", transposed=True)
        return CheckpointReader(
            name, model_file, shapes, layout, gpt2_config.DEFAULTS | {"n_head": model_file.n_head}, files.folder
        )
    if files.kind == "safetensors":
        tensors = safetensors_io.SafeTensors(files.paths)
        return _hugging_face(tensors, {name: tensors.shape(name) for name in tensors}, files)
    return _pytorch(files)


def vocabulary(where: str) -> Path | None:
    """The folder of the vocabulary of the weights that `open_source` reads; None where it is not known.

    Raises UserError when there are no weights.
    """
    if _is_run(where):
        return _vocabulary_of_run(where)
    folder = _files(where).folder
    return folder if tokenizers.digest_in(folder) else None


def _files(where: str) -> WeightFiles:
    path = Path(_here(where))
    if not path.exists() and tf_checkpoint.find(path) is None:
        path = Path(FOLDER) / folder_name(where)
        if not path.exists():
            raise _missing(where)
    if Path(FOLDER) in path.parents and path.is_dir() and (not any(path.iterdir()) or any(path.glob("*.part"))):
        again = f"{invocation.program('download_model.py')} {where.removeprefix(f'{FOLDER}/').rstrip('/')}"
        raise UserError(f"init_from: {path} was not downloaded to its end; run `{again}` again, which continues it")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"init_from: {where} is neither a file nor a folder; name a file of weights or its folder")
    return weight_files.find(path)


def _vocabulary_of_run(folder: str) -> Path | None:
    """The vocabulary that a run was trained with: its own, or for those without one that of its encoder_path."""
    cache = cache_root.root() if storage.is_remote(folder) else Path(folder).parent / "cache"
    if own := run_vocabulary.find(folder, cache=cache):
        return own
    places = [] if storage.is_remote(folder) else [str(Path(folder) / run_dir.VOCABULARY_COPY)]
    values = run_dir.where_it_is(run_dir.read_config(folder), storage.join(folder, run_dir.CONFIG))
    if encoder := values.get("encoder_path"):
        places.append(_here(encoder))
    known = run_dir.vocabulary_digest(folder)
    return next(
        (Path(place) for place in places if (found := tokenizers.digest_in(place)) and known in (None, found)), None
    )


def _missing(where: str) -> UserError:
    """No path, and no model that was downloaded: most likely the one that the text looks like."""
    if where.startswith((".", "/", "~")) or where.count("/") > 1 or Path(where).suffix in weight_files.WEIGHTS:
        return UserError(f"init_from: {where}: no such file or folder; check the spelling of the path")
    folder, name = os.path.split(where)
    near = difflib.get_close_matches(name, os.listdir(folder), n=1) if folder and os.path.isdir(folder) else []
    if near:
        return UserError(f"init_from: {where}: no such file or folder; did you mean {os.path.join(folder, near[0])}?")
    return UserError(
        f"init_from: {where} is neither a file or folder here nor a model that was downloaded; for a released "
        f"one, run `{invocation.program('download_model.py')} {where}` first"
    )


def _is_run(folder: str) -> bool:
    paths = [storage.join(folder, name) for name in (run_dir.CONFIG, CHECKPOINTS)]
    return storage.is_file(paths[0]) and storage.is_folder(paths[1])


def _here(where: str) -> str:
    """The path, or that of its copy when it is in a bucket: of a folder, a prefix, or a file and its neighbors."""
    if not storage.is_remote(where):
        return where
    fetch = partial(data_cache.local, limit_gb=COPIES_GB)
    if storage.is_file(where):
        return fetch(where, siblings=True)
    return fetch(where) if storage.is_folder(where) else fetch(f"{where}.*").removesuffix(".*")


def _tensorflow(prefix: Path) -> CheckpointReader:
    bundle = tf_checkpoint.Bundle(prefix)
    if not any(name.endswith("wte") for name in bundle) and any(OBJECT_BASED in name for name in bundle):
        raise UserError(
            f"{prefix} is an object-based checkpoint of TensorFlow 2 or Keras, which names variables by their place in "
            "the program; open it there and save the weights with save_pretrained() or tf.compat.v1.train.Saver"
        )
    layout = name_maps.TENSORFLOW._replace(
        ignored=lambda name: bool(OTHERS.fullmatch(name) or tf_opt_state.SLOT.search(name)),
    )
    names, left_out = unwrap.unwrap(
        {name: bundle.shape(name) for name in bundle},
        table="wte", first_block="h0/", source=f"TensorFlow checkpoint {prefix}",
    )  # fmt: skip
    if "wte" in names:  # else nothing of ours is in it, and all of it is missing
        names = {f"model/{short}": name for short, name in names.items()}
        names |= {name: name for name in left_out if layout.ignored(name)}
    head = _hints(prefix.parent / "hparams.json").get("n_head")
    return CheckpointReader(
        f"TensorFlow checkpoint {prefix}",
        unwrap.Renamed({short: (bundle, name) for short, name in names.items()}, {}),
        {short: bundle.shape(name) for short, name in names.items()},
        layout,
        gpt2_config.DEFAULTS | ({"n_head": head} if isinstance(head, int) else {}),
        vocabulary=prefix.parent,
        left_out=tuple(name for name in left_out if not layout.ignored(name)),
        step=int(bundle["global_step"]) if "global_step" in bundle else None,
        optimizer=tf_opt_state.optimizer_of(bundle),
    )


def _hugging_face(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    files: WeightFiles,
    *,
    settings: Mapping[str, Any] | None = None,
) -> CheckpointReader:
    """Tensors under Hugging Face's names, or nanoGPT's, behind any prefix; matrices either way around.

    settings: where they are not those of config.json.
    """
    file, config_file = files.paths[0], files.folder / "config.json"
    known = config_file.is_file() and settings is None
    config = gpt2_config.read_config(config_file) if known else {}
    names, left_out = unwrap.unwrap(shapes, table="wte.weight", first_block="h.0.", source=str(file))
    shapes = {short: shapes[name] for short, name in names.items()}
    width, projection = shapes.get("wte.weight", (0,))[-1], shapes.get("h.0.attn.c_attn.weight", ())
    layout = hf.layout("", transposed=projection == (3 * width, width))
    biases = _biases(shapes, transposed=layout.transposed)
    arrays = unwrap.Renamed({short: (tensors, name) for short, name in names.items()}, biases)
    if hf.HEAD_BIAS in shapes and np.any(arrays[hf.HEAD_BIAS]):
        raise UserError(f"{file}: {names[hf.HEAD_BIAS]} is not zero; GPT-2's output matrix has no bias")
    untied = hf.HEAD in shapes and "wte.weight" in shapes and not np.array_equal(arrays[hf.HEAD], arrays["wte.weight"])
    tied = config.get("tie_word_embeddings", True)
    if untied and known and tied:
        head, embedding = names[hf.HEAD], names["wte.weight"]
        raise UserError(f"{file}: {head} differs from {embedding}, and config.json ties them; correct one of both")
    if not tied and hf.HEAD not in shapes:
        raise UserError(f"{file} has no {hf.HEAD}, and config.json unties it from the embedding; download it again")
    return CheckpointReader(
        f"Hugging Face folder {files.folder}" if known else str(file),
        arrays,
        {**shapes, **biases},
        layout,
        gpt2_config.model_keys(config) if settings is None else settings,
        vocabulary=files.folder,
        left_out=tuple(left_out),
        untied=untied,
    )


def _biases(shapes: Mapping[str, tuple[int, ...]], *, transposed: bool) -> dict[str, tuple[int]]:
    """The shapes of the biases of a GPT-2 that has none (nanoGPT's `bias: false`), which are zeros here."""
    weights = re.compile(r"(h\.\d+\.(ln_[12]|attn\.c_(attn|proj)|mlp\.c_(fc|proj))|ln_f)\.weight")
    if any(weights.fullmatch(name.removesuffix("bias") + "weight") for name in shapes if name.endswith(".bias")):
        return {}
    found = {name: shape for name, shape in shapes.items() if weights.fullmatch(name) and shape}
    return {name.removesuffix("weight") + "bias": (shape[0 if transposed else -1],) for name, shape in found.items()}


def _pytorch(files: WeightFiles) -> CheckpointReader:
    """Hugging Face's names, nanoGPT's, or lopuhin's; affjljoo3581's model is another."""
    contents = [torch_pickle.read(path) for path in files.paths]
    parts = [torch_pickle.state_dict(content, path) for content, path in zip(contents, files.paths, strict=True)]
    arrays = unwrap.Renamed({name: (part, name) for part in parts for name in part}, {})
    shapes = {name: part.shape(name) for part in parts for name in part}
    if any(name.startswith(("transformers.", "positional_embedding")) for name in shapes):
        raise UserError(
            f"{files.paths[0]} is of affjljoo3581/GPT2, whose feed-forward layers use Swish and not GELU (older ones "
            "normalize the residual stream too): its weights mean another function here and cannot be taken over"
        )
    first = contents[0] if isinstance(contents[0], dict) else {}
    if isinstance(first.get("model_args"), dict):
        head = first["model_args"].get("n_head")
        settings = gpt2_config.DEFAULTS | NANOGPT | ({"n_head": head} if isinstance(head, int) else {})
        return _hugging_face(arrays, shapes, files, settings=settings)
    names, left_out = unwrap.unwrap(shapes, table="wte.weight", first_block="blocks.0.", source=str(files.paths[0]))
    if not any(name.startswith("blocks.") for name in names):
        return _hugging_face(arrays, shapes, files)
    hints = _hints(files.folder / "params.json").get("hparams", {})
    return CheckpointReader(
        f"PyTorch file {files.paths[0]} (transformer-lm)",
        unwrap.Renamed({short: (arrays, name) for short, name in names.items()}, {}),
        {short: shapes[name] for short, name in names.items()},
        NameMap(_lopuhin_name, transposed=True),
        gpt2_config.DEFAULTS | ({"n_head": hints["n_head"]} if isinstance(hints.get("n_head"), int) else {}),
        vocabulary=files.folder,
        left_out=tuple(left_out),
    )


def _lopuhin_name(path: str, layer: int | None) -> str:
    parts = path.split("/")
    if len(parts) == 1:
        parts.append("weight")
    elif not parts[-2].startswith("ln_"):
        parts[-1] = {"w": "weight", "b": "bias"}[parts[-1]]
    return ".".join(parts if layer is None else ["blocks", str(layer), *parts[1:]])


class _Datasets(Mapping[str, np.ndarray]):
    """The datasets of an hdf5 file by name, each read when it is asked for. Raises UserError where that fails."""

    def __init__(self, items: Mapping[str, Any], path: Path):
        self._items, self._path = items, path

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, name: str) -> np.ndarray:
        item = self._items[name]
        try:
            if item.nbytes > self._path.stat().st_size and not item.compression:
                raise ValueError(f"{item.nbytes:,} bytes, more than the file has")
            return item[()]
        except _HDF5_DAMAGE as error:
            raise UserError(f"{self._path}: {name} cannot be read ({error}); copy the file again") from None


def _hdf5(path: Path) -> CheckpointReader:
    try:
        import h5py
    except ImportError as error:
        raise import_failed(error, f"{path}: reading hdf5 needs h5py: {invocation.install('export')}") from error

    items: dict[str, Any] = {}
    groups: list[str] = []

    # h5py's `visititems` reads more of each group than its members, which takes forever in some damaged files.
    def visit(group: Any, before: str) -> None:
        groups.append(before)
        if before.count("/") > HDF5_DEPTH or len(groups) > HDF5_GROUPS:
            raise ValueError("a group contains itself")
        for key in group:
            name = f"{before}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                continue  # to another place, perhaps in another file
            if isinstance(item := group[key], h5py.Dataset):
                items[name.removesuffix(":0")] = item
            elif isinstance(item, h5py.Group):
                visit(item, f"{name}/")

    try:
        visit(h5py.File(path, "r"), "")
        shapes = {name: tuple(item.shape) for name, item in items.items()}
    except _HDF5_DAMAGE as error:
        raise UserError(f"{path} is no hdf5 file, or it is damaged ({error}); copy it again") from None
    arrays = _Datasets(items, path)
    if not any(name.startswith("model/") for name in arrays):
        raise UserError(
            f"{path} is not of dixie-gpt-2, whose variables are named model/...; of Keras's and other hdf5 files save "
            "the weights as safetensors (save_pretrained)"
        )
    layout = name_maps.TENSORFLOW._replace(ignored=lambda name: not name.startswith("model/") or "/Adam" in name)
    return CheckpointReader(f"hdf5 file {path}", arrays, shapes, layout, gpt2_config.DEFAULTS, vocabulary=path.parent)


def _run(folder: str) -> CheckpointReader:
    """The newest checkpoint of a run of ours: its parameters, on this process's first device."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from estimator.parallel import param_spec
    from estimator.training.checkpoints import NOT_SAVED, Checkpoints

    values = run_dir.read_config(folder)
    config = _Config(**{key: values[key] for key in _Config.model_fields if key in values})
    specs = model.parameters(config)
    place = NamedSharding(Mesh(np.asarray(jax.local_devices()[:1]), ("host",)), PartitionSpec())
    shapes = {"step": jax.ShapeDtypeStruct((), np.int32), "params": param_spec.abstract(lora.parameters(config))}
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    checkpoints = Checkpoints(storage.join(folder, CHECKPOINTS))
    if checkpoints.latest_step is None:
        raise UserError(f"init_from: {folder} holds no checkpoint yet; train there first")
    state = restore(checkpoints, {**template, "optimizer": NOT_SAVED})
    checkpoints.close()
    arrays = name_maps.to_tensorflow(lora.merged(state["params"], config), specs)
    return CheckpointReader(
        f"run {folder}",
        arrays,
        {name: array.shape for name, array in arrays.items()},
        name_maps.TENSORFLOW,
        {"n_head": config.heads} | {key: getattr(config, key) for key in gpt2_config.FUNCTION},
        vocabulary=_vocabulary_of_run(folder),
        step=int(state["step"]),
        untied=config.untied_head,
    )


def _hints(path: Path) -> dict[str, Any]:
    """The values of a small JSON file in the folder of the weights; empty if there is none."""
    try:
        values = json_text.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
