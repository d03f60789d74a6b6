"""Text named in a JSON file, in the place of shards: the shards and vocabulary made of it, which are kept in a cache.

config: the configuration of the data everywhere (`inputs.InputConfig`).
"""

from pathlib import Path
from typing import Any

from runtime import remote_data, shard_groups, shards
from runtime.errors import UserError
from text import prepare
from text.kinds import PLAIN


def is_text(config: Any) -> bool:
    """Whether text is named, and not shards."""
    return config.input == "text" or (
        config.input == "chat" and not shards.named(shard_groups.as_list(config.data_path))
    )


def prepared(config: Any, *, n_vocab: int, folder: Path) -> Any:
    """The configuration, with shards and vocabulary made of the text, in `folder`, in their places."""
    held_out = shard_groups.joined(config, config.eval_split) if shard_groups.is_patterns(config.eval_split) else []
    files = shard_groups.as_list(config.data_path)
    facts: dict[str, Any] = {"n_vocab": n_vocab, "encoder_path": config.encoder_path, "cache": folder}
    made = prepare.prepare_split(files, held_out, kind=_kind(config), **facts)
    found: dict[str, Any] = {"data_path": list(map(str, made.shards)), "encoder_path": str(made.encoder)}
    if held_out:
        found["eval_split"] = list(map(str, made.held_out))
    return config.model_copy(update=found)


def encoder_path(config: Any, *, n_vocab: int, cache: Path) -> Path:
    """The folder of the vocabulary that belongs to the data: the one named or learnt, for chats with their tokens."""
    if config.input == "chat":
        given = remote_data.local_encoder(config) if config.encoder_path else None
        return prepare.chat_vocabulary(given, n_vocab=n_vocab, cache=folder(config, n_vocab=n_vocab, cache=cache))
    if config.encoder_path is not None:
        return Path(remote_data.local_encoder(config))
    if config.input == "text":
        return prepare.learnt_vocabulary(folder(config, n_vocab=n_vocab, cache=cache))
    raise UserError("encoder_path: missing; name the folder of the vocabulary that the shards were made with")


def folder(config: Any, *, n_vocab: int, cache: Path) -> Path:
    """Where all that is made of the text is kept."""
    patterns = config.eval_split if shard_groups.is_patterns(config.eval_split) else None
    kind = [] if _kind(config) == PLAIN else [_kind(config)]
    return prepare.folder_for(cache, config.data_path, patterns, config.encoder_path, n_vocab, *kind)


def _kind(config: Any) -> str:
    """Of text files."""
    return f"chat-{config.chat_voice or 'other'}" if config.input == "chat" else config.text_format or PLAIN
