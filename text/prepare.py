"""From documents to shards: encoded in batches, written where training looks for them, complete or not at all."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime import shards as naming
from runtime.errors import UserError
from runtime.tfrecord import ShardWriter
from text import chat_template, corpus, python_docs, tokenizers
from text.corpus import Document
from text.kinds import KINDS, PLAIN, Encoder
from text.readers import Part
from text.tokenizers import Tokenizer
from text.training import SMALLEST, train_byte_bpe

SHARD_TOKENS = 100_000_000
# A batch is what is in memory at a time; large enough to keep all cores of a big machine busy.
BATCH_CHARS = 1 << 24
BATCH_DOCUMENTS = 1 << 14
# Raised whenever the same text would give other shards, so that caches of older versions are made anew.
CACHE_FORMAT = 1


class Summary(NamedTuple):
    """What became of a corpus.

    shards: the files, in order. documents, tokens, bytes (of UTF-8 text): what they hold. skipped: documents too short.
    """

    shards: list[Path]
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    skipped: int = 0


class Prepared(NamedTuple):
    """Text ready for training: its shards, the folder of their vocabulary, and shards of text that is held out."""

    shards: list[Path]
    encoder: Path
    held_out: Sequence[Path] = ()


def encode_corpus(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    out: Path,
    name: str,
    encoder: Encoder | None = None,
    shard_tokens: int = SHARD_TOKENS,
    min_tokens: int = 1,
    compress: bool = False,
    overwrite: bool = False,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Writes the documents to `out` as NAME_0.tfrecords, NAME_1.tfrecords, ...

    encoder: what encodes the documents, if not the tokenizer alone.
    shard_tokens: a shard ends with the document that reaches this many tokens.
    min_tokens: shorter documents are left out.
    compress: gzip the shards (NAME_0.tfrecords.gz).
    overwrite: replace shards of this name that are there already, which otherwise is a UserError.
    progress: called after each batch with the figures so far.

    Everything is written in a hidden folder within `out` and moved when complete: on an error nothing is left behind.
    The list of the shards, NAME.json, is moved last, by which readers know that all of them are there.
    """
    if not name or os.path.basename(name) != name:
        raise UserError(f'the name of the shards, "{name}", must be a plain file name')
    if existing_shards(out, name) and not overwrite:
        raise UserError(
            f"{out} already has shards of the name {name}; use --overwrite to replace them, or choose another --name"
        )
    manifest_path = naming.manifest_path(out, name)
    if manifest_path.exists() and naming.read_manifest(out, name) is None:
        raise UserError(f"{manifest_path} is where the list of the shards belongs; rename it, or choose another --name")
    partial = naming.partial_folder(out, name)
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        shards = _Shards(partial, name, shard_tokens=shard_tokens, compress=compress, digest=tokenizer.digest)
        documents_total = tokens_total = bytes_total = skipped = 0
        with shards:
            for batch in _batches(documents):
                encoded = (encoder or tokenizer).encode_batch([d.text for d in batch])
                for document, tokens in zip(batch, encoded, strict=True):
                    if len(tokens) < min_tokens:
                        skipped += 1
                        continue
                    shards.write(document.name.encode(errors="replace"), tokens)
                    documents_total += 1
                    tokens_total += len(tokens)
                    bytes_total += _utf8_length(document.text)
                if progress:
                    progress(Summary([], documents_total, tokens_total, bytes_total, skipped))
        if not documents_total:
            raise UserError(
                f"no document has {min_tokens} tokens or more, so nothing was written; lower --min_tokens or add text"
            )
        summary = Summary(
            [out / path.name for path in shards.paths], documents_total, tokens_total, bytes_total, skipped
        )
        options = {"shard_tokens": shard_tokens, "min_tokens": min_tokens, "compress": compress}
        manifest = summary._asdict() | {
            "shards": {path.name: path.stat().st_size for path in shards.paths},
            "tokenizer": tokenizer.digest,
            "options": options,
        }
        manifest_path.unlink(missing_ok=True)
        for old in existing_shards(out, name):
            old.with_name(f"{old.name}.index").unlink(missing_ok=True)
            old.unlink()
        for file in sorted(partial.iterdir()):
            os.replace(file, out / file.name)
        _write_json(manifest_path, manifest)
        return summary
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Shards:
    """The writer of NAME_0, NAME_1, ...: goes on to the next when one is full."""

    def __init__(self, folder: Path, name: str, *, shard_tokens: int, compress: bool, digest: str):
        self.paths: list[Path] = []
        self._stem = folder / name
        self._suffix = ".tfrecords.gz" if compress else ".tfrecords"
        self._shard_tokens = shard_tokens
        self._digest = digest
        self._room = 0
        self._open = contextlib.ExitStack()

    def write(self, name: bytes, tokens: np.ndarray) -> None:
        if self._room <= 0:
            self._open.close()
            path = self._stem.with_name(f"{self._stem.name}_{len(self.paths)}{self._suffix}")
            self._writer = self._open.enter_context(ShardWriter(path, tokenizer=self._digest))
            self.paths.append(path)
            self._room = self._shard_tokens
        self._writer.write(name, tokens)
        self._room -= len(tokens)

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)


def existing_shards(folder: Path, name: str) -> list[Path]:
    """The shards of a name in a folder, in the order of their numbers."""
    files = folder.iterdir() if folder.is_dir() else []
    found = [(number, path) for path in files if (number := naming.number(path)) is not None]
    return [path for _, path in sorted(found) if naming.name(path) == name]


def folder_for(cache: Path, *options: Any) -> Path:
    """A folder for each choice of text and vocabulary: runs that share a cache do not undo each other's work."""
    return cache / f"text-{sha256(json.dumps(options).encode()).hexdigest()[:12]}"


def learnt_vocabulary(folder: Path) -> Path:
    """Where `prepare_text` keeps the vocabulary that it learns."""
    return folder / "encoder"


def load_vocabulary(path: str, *, n_vocab: int) -> Tokenizer:
    """The vocabulary in a folder; UserError when a model of n_vocab has no room for it."""
    tokenizer = tokenizers.load(path)
    if tokenizer.n_vocab > n_vocab:
        raise UserError(
            f"n_vocab is {n_vocab}, but the vocabulary in {path} has {tokenizer.n_vocab} entries; "
            f"set n_vocab to {tokenizer.n_vocab} or more"
        )
    return tokenizer


def prepare_split(
    data_path: Sequence[str],
    held_out: Sequence[str],
    *,
    n_vocab: int,
    encoder_path: str | None,
    cache: Path,
    kind: str = PLAIN,
) -> Prepared:
    """`prepare_text` for the files of data_path, and apart from it for those among them that are held out, if any."""
    apart = corpus.find(held_out) if held_out else []
    hidden = {os.path.realpath(file) for file in apart}
    files = [file for file in corpus.find(data_path) if os.path.realpath(file) not in hidden]
    if not files:
        raise UserError("eval_split: takes all files of data_path; leave some to train on, or give a fraction: 0.05")
    made = prepare_text(files, n_vocab=n_vocab, encoder_path=encoder_path, cache=cache, kind=kind)
    if not apart:
        return made
    encoder, cache = str(made.encoder), cache / "evaluation"
    other = prepare_text(apart, n_vocab=n_vocab, encoder_path=encoder, cache=cache, kind=kind)
    return made._replace(held_out=other.shards)


def prepare_text(
    data_path: str | Sequence[str], *, n_vocab: int, encoder_path: str | None, cache: Path, kind: str = PLAIN
) -> Prepared:
    """The shards and the vocabulary for text named in a JSON file: made in the folder `cache` once, then found there.

    data_path: as for `corpus.documents`. n_vocab: of the model. encoder_path: the vocabulary; when it is None, one of
    at most n_vocab entries is learnt from this text, and kept even if the text changes: models know it by then.
    kind: of the files, one of `kinds.KINDS`; the special tokens that it needs are added to the vocabulary.
    The shards are made anew when a file, an option or the vocabulary changes.
    Several processes may ask for the same cache at once, and any of them may be killed at any time.
    """
    special = KINDS[kind].special_tokens
    smallest = SMALLEST + len(special)
    if encoder_path is None and n_vocab < smallest:
        raise UserError(f"n_vocab is {n_vocab}, but a vocabulary learnt from text has at least {smallest} entries")
    given = load_vocabulary(encoder_path, n_vocab=n_vocab) if encoder_path is not None else None
    paths = corpus.find(data_path)
    fingerprint = _fingerprint(paths, vocabulary_of=n_vocab if given is None else given.digest)
    if kind != PLAIN:
        fingerprint["kind"] = kind
    made_here = given is None or bool(special)
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        shards = _cached(cache, fingerprint, needs_encoder=made_here)
        if shards is None:
            (cache / "prepared.json").unlink(missing_ok=True)
            shutil.rmtree(cache / "shards", ignore_errors=True)
            source = paths[0] if len(paths) == 1 else f"{len(paths)} files"
            tokenizer = given or _learnt(paths, source, n_vocab=n_vocab, cache=cache, kind=kind)
            if special:
                tokenizer = chat_template.extended(tokenizer, n_vocab=n_vocab)
                tokenizer.save(learnt_vocabulary(cache))
            shards = _encode(paths, source, tokenizer, out=cache / "shards", kind=kind)
            record = {"fingerprint": fingerprint, "shards": [[path.name, path.stat().st_size] for path in shards]}
            _write_json(cache / "prepared.json", record)
    return Prepared(shards, learnt_vocabulary(cache) if made_here else Path(str(encoder_path)))


def chat_vocabulary(encoder_path: str | None, *, n_vocab: int, cache: Path) -> Path:
    """Where `prepare_text` keeps the vocabulary of chats; made again, if need be, from the one in encoder_path."""
    folder = learnt_vocabulary(cache)
    if encoder_path and not (folder / "tokenizer.json").is_file():
        chat_template.extended(load_vocabulary(encoder_path, n_vocab=n_vocab), n_vocab=n_vocab).save(folder)
    return folder


def _documents(paths: list[str], kind: str) -> Iterator[Document]:
    for path in paths:
        yield from KINDS[kind].documents_of(Part(path), text_key="text")


def _learnt(paths: list[str], source: str, *, n_vocab: int, cache: Path, kind: str) -> Tokenizer:
    """The vocabulary learnt before, if there is one of this size, or a new one."""
    folder = learnt_vocabulary(cache)
    if (folder / "tokenizer.json").is_file() and (kept := tokenizers.load(folder)).n_vocab <= n_vocab:
        print(f"keeping the vocabulary learnt before; delete {cache} to learn another for new runs", flush=True)
        return kept
    print(f"learning a vocabulary of {n_vocab} entries from {source}", flush=True)
    of = KINDS[kind]
    texts = (of.words(document.text) for document in _documents(paths, kind))
    return train_byte_bpe(texts, n_vocab=n_vocab - len(of.special_tokens), out=folder)


def _encode(paths: list[str], source: str, tokenizer: Tokenizer, *, out: Path, kind: str) -> list[Path]:
    print(f"encoding {source} into {out}, which later runs will find there", flush=True)
    documents = corpus.documents(paths) if kind == PLAIN else _documents(paths, kind)
    encoder = KINDS[kind].encoder(tokenizer)
    summary = encode_corpus(documents, tokenizer, out=out, name="text", encoder=encoder)
    counted = "1 document" if summary.documents == 1 else f"{summary.documents} documents"
    print(
        f"encoded {counted}, {summary.bytes / 1e6:.1f} MB, into {summary.tokens} tokens of "
        f"{summary.bytes / summary.tokens:.2f} bytes",
        flush=True,
    )
    return summary.shards


def _write_json(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _fingerprint(paths: list[str], *, vocabulary_of: int | str) -> dict[str, Any]:
    """All that the shards depend on, as JSON holds it."""
    files: list[list[str | int]] = []
    for path in paths:
        if path == python_docs.NAME:
            files.append([path, platform.python_version()])
        else:
            status = os.stat(path)
            files.append([os.path.realpath(path), status.st_size, status.st_mtime_ns])
    return {"format": CACHE_FORMAT, "vocabulary": vocabulary_of, "files": files}


def _cached(cache: Path, fingerprint: dict[str, Any], *, needs_encoder: bool) -> list[Path] | None:
    """The shards made before from the same text, if all is there."""
    try:
        record = json.loads((cache / "prepared.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(record, dict) or record.get("fingerprint") != fingerprint:
        print(f"the text or its vocabulary has changed since {cache} was made: encoding it anew", flush=True)
        return None
    shards = [(cache / "shards" / name, size) for name, size in record["shards"]]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in shards)
    if not whole or (needs_encoder and not (cache / "encoder" / "tokenizer.json").is_file()):
        print(f"files are missing from {cache}: making it anew", flush=True)
        return None
    return [path for path, _ in shards]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time do the work; the system frees the lock of a process that dies."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is preparing {path.parent}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
