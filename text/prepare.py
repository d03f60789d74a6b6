"""Text named in a JSON file, ready for training: its vocabulary and shards, made in a cache once and found there."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from runtime import storage
from runtime.errors import UserError
from runtime.executors import Executor
from text import chat_template, corpus, python_docs, tokenizers
from text.encoding import encode
from text.encoding_plan import Corpus, Options
from text.kinds import KINDS, PLAIN
from text.readers import Part
from text.tokenizers import Tokenizer
from text.training import SMALLEST, train_byte_bpe

# Raised whenever the same text would give other shards, so that caches of older versions are made anew.
CACHE_FORMAT = 1
# All that the user gave is trained on, in the order in which it was given, by one process.
OPTIONS = Options(drop_exact_duplicates=False, shuffle=False)
EXECUTOR = Executor(workers=1)


class Prepared(NamedTuple):
    """Text ready for training: its shards, the folder of their vocabulary, and shards of text that is held out."""

    shards: list[Path]
    encoder: Path
    held_out: Sequence[Path] = ()


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
    encoder = learnt_vocabulary(cache) if made_here else Path(str(encoder_path))
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        shards = _cached(cache, fingerprint, needs_encoder=made_here)
        if shards is None:
            (cache / "prepared.json").unlink(missing_ok=True)
            shutil.rmtree(cache / "shards", ignore_errors=True)
            source = paths[0] if len(paths) == 1 else f"{len(paths)} files"
            if given is None:
                _learn(paths, source, n_vocab=n_vocab, cache=cache, kind=kind)
            if special:
                chat_template.extended(given or tokenizers.load(encoder), n_vocab=n_vocab).save(encoder)
            shards = _encode(paths, source, str(encoder), out=cache / "shards", kind=kind)
            record = {"fingerprint": fingerprint, "shards": [[path.name, path.stat().st_size] for path in shards]}
            storage.write_bytes_atomic(str(cache / "prepared.json"), json.dumps(record, indent=1).encode())
    return Prepared(shards, encoder)


def chat_vocabulary(encoder_path: str | None, *, n_vocab: int, cache: Path) -> Path:
    """Where `prepare_text` keeps the vocabulary of chats; made again, if need be, from the one in encoder_path."""
    folder = learnt_vocabulary(cache)
    if encoder_path and not (folder / "tokenizer.json").is_file():
        chat_template.extended(load_vocabulary(encoder_path, n_vocab=n_vocab), n_vocab=n_vocab).save(folder)
    return folder


def _learn(paths: list[str], source: str, *, n_vocab: int, cache: Path, kind: str) -> None:
    """Learns a vocabulary, unless there is one of this size that was learnt before."""
    folder = learnt_vocabulary(cache)
    if (folder / "tokenizer.json").is_file() and tokenizers.load(folder).n_vocab <= n_vocab:
        print(f"keeping the vocabulary learnt before; delete {cache} to learn another for new runs", flush=True)
        return
    print(f"learning a vocabulary of {n_vocab} entries from {source}", flush=True)
    of = KINDS[kind]
    texts = (of.words(each.text) for path in paths for each in of.documents_of(Part(path), text_key=OPTIONS.text_key))
    train_byte_bpe(texts, n_vocab=n_vocab - len(of.special_tokens), out=folder)


def _encode(paths: list[str], source: str, encoder: str, *, out: Path, kind: str) -> list[Path]:
    print(f"encoding {source} into {out}, which later runs will find there", flush=True)
    options = OPTIONS._replace(kind=kind)
    made = encode([Corpus("text", tuple(paths))], options, encoder=encoder, out=out, executor=EXECUTOR, quiet=True)
    assert made
    (summary,) = made
    documents = "1 document" if summary.documents == 1 else f"{summary.documents} documents"
    print(
        f"encoded {documents}, {summary.bytes / 1e6:.1f} MB, into {summary.tokens} tokens of "
        f"{summary.bytes / summary.tokens:.2f} bytes",
        flush=True,
    )
    return [Path(path) for path in summary.shards]


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
