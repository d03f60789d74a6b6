"""Remote paths of a data configuration, replaced by local copies: nothing behind this knows of buckets."""

import os
from typing import Any

from estimator import storage
from estimator.data import split_folders
from estimator.data.config import InputConfig
from estimator.shards import discovery
from estimator.storage import data_cache


def with_local_copies(config: InputConfig) -> InputConfig:
    """The configuration of the data with local paths in the place of remote ones, whose files are fetched if needed."""

    def in_full(entry: str, within: str | None) -> str:
        is_within = within is not None and not storage.is_remote(entry) and not os.path.isabs(entry)
        return storage.join(within, entry) if is_within else entry

    def fetched(entry: str, *, within: str | None = None) -> str:
        entry = in_full(entry, within)
        if not storage.is_remote(entry):
            return entry
        recursive = config.input in ("text", "chat")
        return data_cache.local(
            entry,
            limit_gb=config.data_cache_gb,
            recursive=recursive,
            parts=split_folders.PARTS,
            described_by=discovery.described_by,
            named=named,
        )

    changed: dict[str, Any] = {}
    path, split = config.data_path, config.eval_split
    folder = path if isinstance(path, str) and storage.is_remote(path) and not storage.is_pattern(path) else None
    entries = [*([path] if isinstance(path, str) else path or ())]
    entries += [file for files, _ in config.dataset or () for file in files]
    entries += [split] if isinstance(split, str) else map(str, split) if isinstance(split, list) else []
    named = {in_full(entry, folder) for entry in entries}
    if config.dataset:
        changed["dataset"] = [([fetched(file, within=folder) for file in files], w) for files, w in config.dataset]
        if folder is not None:
            changed["data_path"] = None  # its files are named in full now
    elif path:
        changed["data_path"] = fetched(path) if isinstance(path, str) else [fetched(each) for each in path]
    if isinstance(split, str):
        changed["eval_split"] = fetched(split, within=folder)
    elif isinstance(split, list) and isinstance(split[0], str):
        changed["eval_split"] = [fetched(each, within=folder) for each in split]
    if config.encoder_path is not None:
        changed["encoder_path"] = local_encoder(config.encoder_path, config)
    return config.model_copy(update=changed)


def local_encoder(path: str, config: InputConfig) -> str:
    """The folder or file of the vocabulary on this machine."""
    if not storage.is_remote(path):
        return path
    return data_cache.local(path, limit_gb=config.data_cache_gb, siblings=True)
