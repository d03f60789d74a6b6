"""What a cache of prepared text says it was made of, and whether that is the text, and how it is read, of now.

prepared.json is about the shards, learned.json about a vocabulary that was learned from the text. Each has a
fingerprint: all that what it is about depends on.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from estimator import format_version, json_text, storage
from estimator.corpus import archive_parts, documents, file_search, python_docs
from estimator.corpus.build.plan import Options, chats_format
from estimator.shards.tfrecord import open_shard

# Raised whenever the same text would give other shards, so that caches of older versions are rebuilt.
CACHE_FORMAT = 1
# Raised instead where only files of another kind than text, or .json files, give others; CHATS_FORMAT: conversations.
RECORDS_FORMAT = 2
PREPARED, LEARNED = "prepared.json", "learned.json"
# All that the user gave is trained on, in the order in which it was given, by one process; files that are held out by
# their names are divided before.
OPTIONS = Options(drop_exact_duplicates=False, shuffle=False, by_names=False)
Fingerprint = dict[str, Any]


def changed(options: Options) -> dict[str, Any]:
    """Returns those options that differ from OPTIONS, so that they have a cache of their own."""
    default = OPTIONS.identity()
    return {key: value for key, value in options.identity().items() if value != default.get(key)}


def fingerprint_of(paths: list[str], *, vocabulary_of: int | str, options: Options = OPTIONS) -> Fingerprint:
    """All that the shards depend on, as JSON holds it, for a text without faults.

    vocabulary_of: the digest of a vocabulary, or n_vocab for one that is learned.
    """
    files: list[list[str | int]] = []
    for path in paths:
        if path == python_docs.NAME:
            files.append([path, platform.python_version()])
        else:
            status = os.stat(archive_parts.archive_of(path) or path)
            files.append([file_search.real(path), status.st_size, status.st_mtime_ns])
    more = chats_format(options.kind, paths)
    if not more and (options.kind != Options().kind or any(re.search(r"\.json(\.|$)", path.lower()) for path in paths)):
        more["records"] = RECORDS_FORMAT
    return {"format": CACHE_FORMAT, "vocabulary": vocabulary_of, "files": files} | changed(options) | more


def with_faults(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint of the same text where faults of it were skipped."""
    return fingerprint | {"on_error": "skip"}


def is_with_faults(cache: Path, fingerprint: Fingerprint) -> bool:
    """Whether a run that skips faults made the cache of this text, and left out something that may be one."""
    records = (_read(cache / name) for name in (PREPARED, LEARNED))
    return any(record.get("fingerprint") == with_faults(fingerprint) for record in records)


def mark_faultless(cache: Path, fingerprint: Fingerprint) -> None:
    """Notes that what a run left out of this text are no faults, so that every run finds the cache."""
    for name in (PREPARED, LEARNED):
        record = _read(cache / name)
        if record.get("fingerprint") == with_faults(fingerprint):
            _write(cache / name, record | {"fingerprint": fingerprint})


def write_prepared(
    cache: Path,
    fingerprint: Fingerprint,
    shards: Sequence[Path],
    left_out: Iterable[str],
    undivided: Sequence[str],
) -> None:
    """Notes that the shards are made.

    left_out: the reasons why a run that skips faults left something out. undivided: what `undivided` returns.
    """
    sizes = [[path.name, path.stat().st_size] for path in shards]
    record = {"fingerprint": _with_reasons(fingerprint, left_out), "shards": sizes, "undivided": list(undivided)}
    _write(cache / PREPARED, record)


def undivided(cache: Path) -> list[str] | None:
    """The notes of `archive_names` on the text in the cache; None in caches of versions that made none."""
    found = _read(cache / PREPARED).get("undivided")
    return [note for note in found if isinstance(note, str)] if isinstance(found, list) else None


def write_learned(cache: Path, fingerprint: Fingerprint, digest: str, left_out: Iterable[str]) -> None:
    """Notes which text the vocabulary with this digest was learned from. left_out: as for `write_prepared`."""
    _write(cache / LEARNED, {"fingerprint": _with_reasons(fingerprint, left_out), "vocabulary": digest})


def is_learned(cache: Path, accepted: Sequence[Fingerprint], digest: str | None) -> bool:
    """Whether the vocabulary in the cache, which has this digest, was learned from this very text."""
    record = _read(cache / LEARNED)
    return digest is not None and record in [{"fingerprint": each, "vocabulary": digest} for each in accepted]


def is_noted(cache: Path) -> bool:
    """Whether the cache says which text its vocabulary was learned from, as versions before did not."""
    return (cache / LEARNED).is_file()


def files(cache: Path) -> Any:
    """The files, with their sizes and times, that the shards were made of; None where nothing is prepared."""
    fingerprint = _read(cache / PREPARED).get("fingerprint")
    return fingerprint.get("files") if isinstance(fingerprint, dict) else None


def shards(
    cache: Path, accepted: Sequence[Fingerprint], *, needs_encoder: bool, digest: str | None = None
) -> list[Path] | None:
    """The shards made earlier from the same text, if complete; a line says why not.

    accepted: fingerprints that will do. needs_encoder: whether the vocabulary is in the cache. digest: of that.
    """
    record = _read(cache / PREPARED)
    if not record:
        return None
    format_version.check(record.get("fingerprint"), cache / PREPARED, known=CACHE_FORMAT)
    if record.get("fingerprint") not in accepted:
        print(
            f"the text, its vocabulary or how it is read has changed since {cache} was made: encoding it again",
            flush=True,
        )
        return None
    there = [(cache / "shards" / name, size) for name, size in record["shards"]]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in there)
    if not whole or (needs_encoder and digest is None):
        print(f"files are missing from {cache}: making it again", flush=True)
        return None
    found = [path for path, _ in there]
    # Versions before could put another vocabulary next to the shards.
    if needs_encoder and any(open_shard(path).tokenizer not in (None, digest) for path in found):
        print(f"the shards in {cache} were made with another vocabulary than the one there: encoding again", flush=True)
        return None
    return found


def forget_shards(cache: Path) -> None:
    (cache / PREPARED).unlink(missing_ok=True)
    shutil.rmtree(cache / "shards", ignore_errors=True)


def _with_reasons(fingerprint: Fingerprint, left_out: Iterable[str]) -> Fingerprint:
    return fingerprint if all(map(documents.is_noted, left_out)) else with_faults(fingerprint)


def _read(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    try:
        record = json_text.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    storage.write_bytes_atomic(str(path), json.dumps(record, indent=1).encode())
