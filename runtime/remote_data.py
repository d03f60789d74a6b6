"""Remote paths of a data configuration, replaced by local copies: nothing behind this knows of buckets."""

import glob
import os
from typing import Any

from runtime import local_copies, storage


def with_local_copies(config: Any) -> Any:
    """The configuration of the data with local paths in the place of remote ones, whose files are fetched if needed.

    config: has data_path, dataset, eval_split, encoder_path, input and data_cache_gb.
    """

    def fetched(entry: str, *, within: str | None = None) -> str:
        if within is not None and not storage.is_remote(entry) and not os.path.isabs(entry):
            entry = storage.join(within, entry)
        if not storage.is_remote(entry):
            return entry
        return local_copies.local(entry, limit_gb=config.data_cache_gb, recursive=config.input in ("text", "chat"))

    changed: dict[str, Any] = {}
    path = config.data_path
    folder = path if isinstance(path, str) and storage.is_remote(path) and not glob.has_magic(path) else None
    if config.dataset:
        changed["dataset"] = [([fetched(file, within=folder) for file in files], w) for files, w in config.dataset]
        if folder is not None:
            changed["data_path"] = None  # its files are named in full now
    elif path:
        changed["data_path"] = fetched(path) if isinstance(path, str) else [fetched(each) for each in path]
    split = config.eval_split
    if isinstance(split, str):
        changed["eval_split"] = fetched(split, within=folder)
    elif isinstance(split, list) and isinstance(split[0], str):
        changed["eval_split"] = [fetched(each, within=folder) for each in split]
    if config.encoder_path is not None:
        changed["encoder_path"] = local_encoder(config)
    return config.model_copy(update=changed)


def local_encoder(config: Any) -> str:
    """The vocabulary's folder or file on this machine."""
    path = config.encoder_path
    if not storage.is_remote(path):
        return path
    return local_copies.local(path, limit_gb=config.data_cache_gb, siblings=True)
