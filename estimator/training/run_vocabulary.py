"""Copies the vocabulary into the run's folder, so that the run needs neither the cache nor encoder_path."""

import os
import tempfile
from pathlib import Path

from estimator import storage
from estimator.errors import UserError
from estimator.storage import cache_root
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import run_dir


def find(folder: str, *, cache: Path) -> Path | None:
    """Finds the vocabulary that a run was trained with: its own copy or, for older runs, the one learned in `cache`.

    Returns None if no training began in the folder or no intact vocabulary with the run's digest exists.
    """
    digest = run_dir.vocabulary_digest(folder)
    if digest is None:
        return None
    places = [_local(storage.join(folder, run_dir.VOCABULARY_COPY), digest)]
    places += [Path(path) / "encoder" for path in storage.children(str(cache), "text-*")]
    return next((place for place in places if tokenizers.digest_in(place) == digest), None)


def keep(folder: str, source: str | Path | None, digest: str | None) -> None:
    """Copies the vocabulary in `source` into the run's folder unless it already holds an intact copy."""
    copy = storage.join(folder, run_dir.VOCABULARY_COPY)
    held = tokenizers.digest_in(_local(copy, digest)) if digest else None
    if source is None or digest is None or held == digest:
        return
    if held is not None:
        raise UserError(f"{copy} holds another vocabulary than the run's, whose copy is kept there; move it elsewhere")
    with tempfile.TemporaryDirectory(prefix="gpt2-vocabulary-") as temporary:
        tokenizers.load(source).save(temporary)
        if tokenizers.digest_in(temporary) != digest:
            return  # from files other than the shards
        if not storage.is_remote(copy):
            Path(copy).mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(temporary).iterdir()):
            storage.upload(path, storage.join(copy, path.name))


def forget(folder: str) -> None:
    """Lets a run that has saved no step begin with another vocabulary. A copy that is the user's own stays."""
    given = run_dir.config_before(folder).get("encoder_path") or ""
    copy = storage.join(folder, run_dir.VOCABULARY_COPY)
    if os.path.realpath(given) != os.path.realpath(copy):
        storage.remove(copy)
    storage.remove(storage.join(folder, run_dir.VOCABULARY))


def _local(copy: str, digest: str) -> Path:
    """The folder, or the local copy of a remote one."""
    if not storage.is_remote(copy):
        return Path(copy)
    target = cache_root.folder_of(copy, kind="vocabularies")
    if tokenizers.digest_in(target) != digest:
        target.mkdir(parents=True, exist_ok=True)
        for path in storage.listing(copy):
            storage.download(path, target / path.rpartition("/")[2])
    return target
