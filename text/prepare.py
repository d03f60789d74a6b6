"""From documents to shards: encoded in batches, written where training looks for them, complete or not at all."""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import UserError
from runtime.tfrecord import ShardWriter
from text import corpus, python_docs, tokenizers
from text.corpus import Document
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
    """Text ready for training: its shards, and the folder of the vocabulary that they are written in."""

    shards: list[Path]
    encoder: Path


def encode_corpus(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    out: Path,
    name: str,
    shard_tokens: int = SHARD_TOKENS,
    min_tokens: int = 1,
    compress: bool = False,
    overwrite: bool = False,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Writes the documents to `out` as NAME_0.tfrecords, NAME_1.tfrecords, ...

    shard_tokens: a shard ends with the document that reaches this many tokens.
    min_tokens: shorter documents are left out.
    compress: gzip the shards (NAME_0.tfrecords.gz).
    overwrite: replace shards of this name that are there already, which otherwise is a UserError.
    progress: called after each batch with the figures so far.

    Everything is written in a hidden folder within `out` and moved when complete: on an error nothing is left behind.
    """
    if not name or os.path.basename(name) != name:
        raise UserError(f'the name of the shards, "{name}", must be a plain file name')
    if existing_shards(out, name) and not overwrite:
        raise UserError(
            f"{out} already has shards of the name {name}; use --overwrite to replace them, or choose another --name"
        )
    partial = out / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        shards = _Shards(partial, name, shard_tokens=shard_tokens, compress=compress, digest=tokenizer.digest)
        documents_total = tokens_total = bytes_total = skipped = 0
        with shards:
            for batch in _batches(documents):
                for document, tokens in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
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
        for old in existing_shards(out, name):
            old.with_name(f"{old.name}.index").unlink(missing_ok=True)
            old.unlink()
        for file in sorted(partial.iterdir()):
            os.replace(file, out / file.name)
        paths = [out / path.name for path in shards.paths]
        return Summary(paths, documents_total, tokens_total, bytes_total, skipped)
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
    pattern = re.compile(re.escape(name) + r"_(\d+)\.tfrecords(\.gz)?")
    files = folder.iterdir() if folder.is_dir() else []
    found = [(int(match[1]), path) for path in files if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def prepare_text(data_path: str | Sequence[str], *, n_vocab: int, encoder_path: str | None, cache: Path) -> Prepared:
    """The shards and the vocabulary for text named in a JSON file: made in the folder `cache` once, then found there.

    data_path: as for `corpus.documents`. n_vocab: of the model. encoder_path: the vocabulary; when it is None, one of
    at most n_vocab entries is learnt from this text. Made anew when a file, an option or the vocabulary changes.
    Several processes may ask for the same cache at once, and any of them may be killed at any time.
    """
    if encoder_path is None and n_vocab < SMALLEST:
        raise UserError(f"n_vocab is {n_vocab}, but a vocabulary learnt from text has at least {SMALLEST} entries")
    given = None if encoder_path is None else tokenizers.load(encoder_path)
    if given is not None and given.n_vocab > n_vocab:
        raise UserError(
            f"n_vocab is {n_vocab}, but the vocabulary of {encoder_path} has {given.n_vocab} entries; "
            f"set n_vocab to {given.n_vocab} or more"
        )
    paths = corpus.find(data_path)
    fingerprint = _fingerprint(paths, vocabulary_of=n_vocab if given is None else given.digest)
    encoder = cache / "encoder" if encoder_path is None else Path(encoder_path)
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        shards = _cached(cache, fingerprint, needs_encoder=given is None)
        if shards is None:
            shards = _make(paths, n_vocab=n_vocab, given=given, cache=cache)
            record = {"fingerprint": fingerprint, "shards": [[path.name, path.stat().st_size] for path in shards]}
            temporary = cache / "prepared.json.tmp"
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            os.replace(temporary, cache / "prepared.json")
    return Prepared(shards, encoder)


def _make(paths: list[str], *, n_vocab: int, given: Tokenizer | None, cache: Path) -> list[Path]:
    """Learns the vocabulary if none is given, and encodes the text with it."""
    (cache / "prepared.json").unlink(missing_ok=True)
    shutil.rmtree(cache / "shards", ignore_errors=True)
    source = paths[0] if len(paths) == 1 else f"{len(paths)} files"
    tokenizer = given
    if tokenizer is None:
        print(f"learning a vocabulary of {n_vocab} entries from {source}", flush=True)
        texts = (document.text for document in corpus.documents(paths))
        tokenizer = train_byte_bpe(texts, n_vocab=n_vocab, out=cache / "encoder")
    print(f"encoding {source} into {cache / 'shards'}, which later runs will find there", flush=True)
    summary = encode_corpus(corpus.documents(paths), tokenizer, out=cache / "shards", name="text")
    print(
        f"encoded {summary.documents} documents, {summary.bytes / 1e6:.1f} MB, into {summary.tokens} tokens of "
        f"{summary.bytes / summary.tokens:.2f} bytes",
        flush=True,
    )
    return summary.shards


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
        print(f"the text or its vocabulary has changed since {cache} was made: making it anew", flush=True)
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
