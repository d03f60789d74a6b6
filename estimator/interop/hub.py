"""Released models: their names, the files that each needs, and checks that these are whole together.

Files of the Hub are checked by the sizes and hashes of the repository's list, TensorFlow checkpoints by the checksum of
every tensor. OpenAI called its two smaller models 117M and 345M first; ConnorJL's model of the name 117M is another
one, `ConnorJL/117M` here.
"""

import glob
import json
import re
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.interop import gpt2_config, safetensors_io, tf_checkpoint
from estimator.interop.downloads import NotThere, Remote, download, hub_address, listed_file, problem
from estimator.tokenization import tokenizer, vocab_files

FOLDER = "pretrained"  # where models go, and where init_from looks for a name
ENCODER = "encoder"  # the folder of GPT-2's vocabulary, as the configs name it
OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
CONNORJL = "https://storage.googleapis.com/connors-models/public"
OPENAI_NAMES = ("124M", "355M", "774M", "1558M")
OLD_NAMES = {"117M": "124M", "345M": "355M", "762M": "774M", "1.5B": "1558M"}  # OpenAI's first names
VOCABULARY = ("encoder.json", "vocab.bpe")
CHECKPOINT = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")
# Hugging Face: the weights are the first of these that exists; the other files are taken where they exist.
HF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
HF_FILES = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model", "vocab.txt", *VOCABULARY,
)  # fmt: skip
# Models of the Hub by the names that transformers gives them.
HUB_NAMES = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
HUB_NAMES |= {"distilgpt2": "distilbert/distilgpt2"}
HUB_PAGE = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/([^/?#]+(?:/[^/?#]+)?)(?:/(?:tree|blob|resolve)/([^/?#]+).*)?/?"
)
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

Progress = Callable[[str, int, int | None], object]


class Released(NamedTuple):
    """folder: below FOLDER, or ENCODER. base: address of the folder of the files; None: `folder` is a Hub repository.

    files: all are needed. checkpoint: its name in TensorFlow's list of checkpoints. revision: branch, tag or commit on
    the Hub.
    """

    folder: str
    base: str | None
    files: tuple[str, ...] = ()
    checkpoint: str | None = None
    revision: str = "main"


CATALOGUE = {
    name: Released(name, f"{OPENAI}/{name}", (*VOCABULARY, "hparams.json", *CHECKPOINT), "model.ckpt")
    for name in OPENAI_NAMES
} | {
    name: Released(name, f"{CONNORJL}/{name.removeprefix('ConnorJL/')}", CHECKPOINT, "model.ckpt")
    for name in ("PrettyBig", "ConnorJL/117M", "ConnorJL/1.5B")  # ConnorJL's 117M is not OpenAI's
} | {"encoder": Released(ENCODER, f"{OPENAI}/124M", VOCABULARY)}  # fmt: skip


def folder_name(name: str) -> str:
    """The folder, below FOLDER, of a model by any of its names, or by the address of its page on the Hub."""
    if page := HUB_PAGE.fullmatch(name):
        name = HUB_NAMES.get(page[1], page[1])
        return f"{name}@{page[2]}" if page[2] not in (None, "main") else name
    return OLD_NAMES.get(name, HUB_NAMES.get(name, name))


def find(name: str) -> Released:
    """The model of a name: an entry of the catalogue, or `org/model[@revision]` on the Hub. Raises UserError."""
    folder = folder_name(name)
    if folder in CATALOGUE:
        return CATALOGUE[folder]
    repository, _, revision = folder.partition("@")
    parts = repository.split("/")
    if len(parts) == 2 and all(part and not part.startswith(".") for part in (*parts, revision or "main")):
        return Released(folder, None, revision=revision or "main")
    raise UserError(
        f"no released model is called {name}; available: {', '.join(CATALOGUE)}, and any GPT-2 of Hugging Face as "
        "org/model or by the address of its page, such as openai-community/gpt2"
    )


def fetch(model: Released, out: Path, *, mirror: str | None, progress: Progress, note: Callable[[str], object]) -> Path:
    """Downloads a model below `out`, checks its files together and returns their folder.

    mirror: a folder or an address with the same files. progress: called with a file's name, the bytes that have
    arrived and their total. note: called with a warning. Raises UserError when a file cannot be had or is wrong, and
    before the weights are downloaded where `init_from` would refuse the model.
    """
    folder = out / (ENCODER if model.folder == ENCODER else f"{FOLDER}/{model.folder}")
    if mirror and "://" not in mirror and not Path(mirror).is_dir():
        raise UserError(f"--from {mirror}: no such folder; give a folder, or an address that begins with https://")
    base = (mirror or model.base or "").rstrip("/")
    if model.base is None:
        _fetch_from_hub(model, folder, base, progress)
    for name in model.files:
        _Source(base, None, progress).fetch(name, folder)
    if model.checkpoint:
        _check_bundle(folder / model.checkpoint)
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{model.checkpoint}"\n', encoding="utf-8")
        _fetch_vocabulary(folder, out / ENCODER, mirror, progress, note)
    return folder


def describe(model: Released, folder: Path) -> str:
    """Lines on a model that was downloaded: its folder, and the keys of a JSON file that begins with it."""
    lines = [f"{folder}: whole"]
    if model.folder == ENCODER:
        return lines[0]
    if (folder / "config.json").is_file():
        keys = gpt2_config.run_keys(folder / "config.json")
    else:
        hints = _read_json(folder / "hparams.json") if (folder / "hparams.json").is_file() else {}
        keys = {key: hints[key] for key in ("n_layer", "n_embd", "n_head", "n_ctx") if key in hints}
        keys["n_vocab"] = hints.get("n_vocab", 50257)
    keys["init_from"] = model.folder
    if model.base is not None:
        keys["encoder_path"] = ENCODER
    else:
        try:
            vocabulary = tokenizer.load(folder)
            keys["encoder_path"] = str(folder)
            if vocabulary.n_vocab > keys["n_vocab"]:
                lines.append(f"its vocabulary has {vocabulary.n_vocab:,} ids, the model {keys['n_vocab']:,}")
        except UserError as error:
            lines.append(f"no vocabulary of it can be used ({error}); set encoder_path to the one it was trained with")
    return "\n".join([*lines, "to begin with it: " + json.dumps(keys)[1:-1]])


class _Source(NamedTuple):
    """Where files come from. base: an address or a folder. listed: its files, None where there is no list."""

    base: str
    listed: dict[str, Remote] | None
    progress: Progress

    def fetch(self, name: str, folder: Path) -> None:
        """Raises NotThere when there is no such file."""
        if "://" not in self.base:
            _copy(Path(self.base) / name, folder / name)
            return
        if self.listed is not None and name not in self.listed:
            raise NotThere(f"{self.base} has no {name}")
        remote = (self.listed or {}).get(name, Remote(f"{self.base}/{name}", sha256=SHA256.get(name)))
        download(remote, folder / name, progress=lambda done, total: self.progress(name, done, total))

    def fetch_if_there(self, name: str, folder: Path) -> bool:
        try:
            self.fetch(name, folder)
        except NotThere:
            return False
        return True


def _fetch_from_hub(model: Released, folder: Path, base: str, progress: Progress) -> None:
    listed = None
    if not base:
        root = hub_address()
        repository, revision = model.folder.partition("@")[0], urllib.parse.quote(model.revision, safe="")
        base = f"{root}/{repository}/resolve/{revision}"
        listed = _list(f"{root}/api/models/{repository}/tree/{revision}", base)
    source = _Source(base, listed, progress)
    source.fetch("config.json", folder)
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise UserError(f"{base} is of another architecture ({kind}); only GPT-2 can be read")
    gpt2_config.read_config(folder / "config.json")
    # Those that are here are checked as well: a disk may have damaged them since.
    here = (name for name in HF_WEIGHTS if source.fetch_if_there(name, folder) or (folder / name).is_file())
    weights = next(here, None)
    if weights is None:
        raise UserError(f"{base} has no weights: none of {', '.join(HF_WEIGHTS)}")
    if weights.endswith(".index.json"):
        parts = _read_json(folder / weights).get("weight_map", {}).values()
        for part in sorted({Path(str(part)).name for part in parts}):
            source.fetch(part, folder)
    for name in HF_FILES:
        source.fetch_if_there(name, folder)
    if "safetensors" in weights:
        files = safetensors_io.files(folder, "model.safetensors.index.json", "model.safetensors")
        try:
            safetensors_io.SafeTensors(files)
        except UserError:
            for file in files:
                file.unlink()
            raise


def _list(url: str, base: str) -> dict[str, Remote]:
    """The files of a repository, with their sizes and, of large ones, their hashes."""
    with tempfile.TemporaryDirectory(prefix="gpt2-hub-") as folder:
        path = Path(folder) / "list.json"
        download(Remote(url), path)
        try:
            return {
                entry["path"]: listed_file(entry, f"{base}/{urllib.parse.quote(entry['path'])}")
                for entry in json_text.loads(path.read_bytes())
                if entry["type"] == "file"
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{url} did not answer with a list of files; try later, or --from a folder") from None


def _copy(source: Path, path: Path) -> None:
    if not source.is_file():
        raise NotThere(f"{source} is missing; --from needs a folder with all files of the model")
    if fault := problem(source, Remote(str(source), sha256=SHA256.get(source.name))):
        raise UserError(f"{source} {fault}; copy it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and path.samefile(source)):
        storage.upload(source, str(path))


def _check_bundle(prefix: Path) -> None:
    """Reads every tensor, which verifies the checksums; removes the files if one is wrong."""
    try:
        bundle = tf_checkpoint.Bundle(prefix)
        for name in bundle:
            if bundle.entries[name].dtype != tf_checkpoint.STRING:
                bundle[name]
    except UserError as error:
        for file in prefix.parent.glob(f"{glob.escape(prefix.name)}.*"):
            file.unlink()
        raise UserError(f"{error}. The files were removed; run the same command again") from None


def _fetch_vocabulary(folder: Path, encoder: Path, mirror: str | None, progress: Progress, note: Any) -> None:
    """GPT-2's vocabulary in the folder that the configs name: the model's own copy, or OpenAI's.

    Where another vocabulary is, of any kind, that stays alone.
    """
    there = {file.name for file in vocab_files.files(encoder)}
    if there == set(VOCABULARY) or there - set(VOCABULARY):
        return
    own = all((folder / name).is_file() for name in VOCABULARY)
    base = str(folder) if own else mirror or str(CATALOGUE["encoder"].base)
    try:
        for name in VOCABULARY:
            _Source(base, None, progress).fetch(name, encoder)
    except UserError as error:
        note(f"the model is here, but not its vocabulary, {encoder}: {error}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json_text.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} is not a JSON object; move it elsewhere and run the same command again, which fetches it"
        )
    return values
