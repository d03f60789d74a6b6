"""A released model on this disk: which files it needs, from where, and whether they are whole together.

TensorFlow checkpoints carry a checksum of every tensor, which is verified once all files are there; for Hugging Face's
files sizes and hashes come from the list of the repository.
"""

import json
import os
import shutil
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from runtime import downloads, released, safetensors, tensor_bundle
from runtime.downloads import NotThere, Remote
from runtime.errors import UserError
from runtime.released import Released

Progress = Callable[[str, int, int | None], object]


class _Place(NamedTuple):
    """Where files come from. base: an address or a folder. listed: all files there, where a list is to be had."""

    base: str
    listed: dict[str, Remote] | None
    progress: Progress

    def bring(self, name: str, folder: Path) -> None:
        """Raises NotThere when there is no such file."""
        path = folder / name
        if self.listed is not None and name not in self.listed:
            raise NotThere(f"{self.base} has no {name}")
        if "://" not in self.base:
            _copy(Path(self.base) / name, path)
            return
        known = (self.listed or {}).get(name, Remote(f"{self.base}/{name}", sha256=released.SHA256.get(name)))
        downloads.download(known, path, progress=lambda done, total: self.progress(name, done, total))


def fetch(model: Released, out: Path, *, mirror: str | None, progress: Progress, note: Callable[[str], object]) -> Path:
    """Brings all files of a model below `out`, checks them together and returns their folder.

    mirror: a folder or an address with the same files. Raises UserError when a file cannot be had or is wrong.
    """
    folder = out / (released.ENCODER if model.folder == released.ENCODER else f"{released.FOLDER}/{model.folder}")
    if mirror and "://" not in mirror and not Path(mirror).is_dir():
        raise UserError(f"--from {mirror}: no such folder; give a folder, or an address that begins with https://")
    base = (mirror or model.base or "").rstrip("/")
    if model.base is None:
        _hugging_face(model, folder, base, progress)
    else:
        place = _Place(base, None, progress)
        for name in model.files:
            place.bring(name, folder)
    if model.checkpoint:
        _check_bundle(folder / model.checkpoint)
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{model.checkpoint}"\n', encoding="utf-8")
        _vocabulary(folder, out / released.ENCODER, mirror, progress, note)
    return folder


def describe(model: Released, folder: Path) -> str:
    """What is there now, and what to write in a JSON file to use it."""
    lines = [f"{folder}: whole"]
    sizes: dict[str, Any] = {}
    for name in ("hparams.json", "config.json"):
        if (folder / name).is_file():
            sizes = json.loads((folder / name).read_text(encoding="utf-8"))
    if model.folder != released.ENCODER:
        names = ("n_layer", "n_embd", "n_head", "n_inner", "n_ctx")
        keys = {key: sizes[key] for key in names if sizes.get(key) is not None}
        keys |= {} if sizes.get("tie_word_embeddings", True) else {"untied_head": True}
        keys |= {"n_vocab": sizes.get("n_vocab", sizes.get("vocab_size", 50257)), "init_from": model.folder}
        keys["encoder_path"] = str(folder) if model.base is None else released.ENCODER
        lines.append("to begin with it: " + json.dumps(keys)[1:-1])
    return "\n".join(lines)


def _hugging_face(model: Released, folder: Path, base: str, progress: Progress) -> None:
    listed = None
    if not base:
        root = os.environ.get("HF_ENDPOINT", released.HUGGING_FACE).rstrip("/")
        base = f"{root}/{model.folder}/resolve/main"
        listed = _listed(f"{root}/api/models/{model.folder}/tree/main", base)
    place = _Place(base, listed, progress)
    place.bring("config.json", folder)
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise UserError(f"{base} is of another architecture ({kind}); only GPT-2 can be read")
    for name in released.HF_WEIGHTS:
        if (folder / name).is_file() or _brought(place, name, folder):
            weights = name
            break
    else:
        raise UserError(f"{base} has no weights: none of {', '.join(released.HF_WEIGHTS)}")
    if weights.endswith(".index.json"):
        parts = _read_json(folder / weights).get("weight_map", {}).values()
        for part in sorted({Path(str(part)).name for part in parts}):
            place.bring(part, folder)
    for name in released.HF_FILES:
        _brought(place, name, folder)
    if "safetensors" in weights:
        files = safetensors.files(folder, "model.safetensors.index.json", "model.safetensors")
        try:
            safetensors.SafeTensors(files)
        except UserError:
            for file in files:
                file.unlink()
            raise


def _listed(url: str, base: str) -> dict[str, Remote]:
    """The files of a repository; of large ones the hash is known, of all the size."""
    try:
        entries = json.loads(downloads.text(url))
        files = [entry for entry in entries if entry["type"] == "file"]
        return {
            entry["path"]: Remote(
                f"{base}/{urllib.parse.quote(entry['path'])}",
                size=entry.get("size"),
                sha256=(entry.get("lfs") or {}).get("oid"),
            )
            for entry in files
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{url} did not answer with a list of files; try later, or --from a folder") from None


def _brought(place: _Place, name: str, folder: Path) -> bool:
    try:
        place.bring(name, folder)
    except NotThere:
        return False
    return True


def _copy(source: Path, path: Path) -> None:
    if not source.is_file():
        raise NotThere(f"{source} is missing; --from needs a folder with all files of the model")
    found = downloads.problem(source, Remote(str(source), sha256=released.SHA256.get(source.name)))
    if found:
        raise UserError(f"{source} {found}; copy it anew")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(source):
        return
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.copyfile(source, temporary)
    os.replace(temporary, path)


def _check_bundle(prefix: Path) -> None:
    """Reads every tensor, whose checksums are verified by that; what is damaged is not kept."""
    try:
        bundle = tensor_bundle.Bundle(prefix)
        for name in bundle:
            if bundle.entries[name].dtype != tensor_bundle.STRING:
                bundle[name]
    except UserError as error:
        for file in prefix.parent.glob(f"{prefix.name}.*"):
            file.unlink()
        raise UserError(f"{error}. The files were removed; run the same command again") from None


def _vocabulary(folder: Path, encoder: Path, mirror: str | None, progress: Progress, note: Any) -> None:
    """GPT-2's vocabulary in the folder that the configs name: the model's own copy, or OpenAI's."""
    if any((encoder / name).is_file() for name in (*released.VOCABULARY, "tokenizer.json")):
        return
    if all((folder / name).is_file() for name in released.VOCABULARY):
        for name in released.VOCABULARY:
            _copy(folder / name, encoder / name)
        return
    base = mirror or str(released.CATALOGUE["encoder"].base)
    try:
        for name in released.VOCABULARY:
            _Place(base, None, progress).bring(name, encoder)
    except UserError as error:
        note(f"the model is here, but not its vocabulary, {encoder}: {error}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; remove it and run the same command again")
    return values
