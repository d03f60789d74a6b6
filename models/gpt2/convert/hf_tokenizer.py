"""The vocabulary of a Hugging Face folder: tokenizer.json, its configuration and the chat template.

A SentencePiece or WordPiece vocabulary is there as its own file, too: only that tells all of it, for a run that begins
with the folder. Programs that find both read the tokenizer.json.
"""

from typing import Any

from estimator.corpus import chat_template
from estimator.tokenization.tokenizer import Tokenizer

# What transformers may read of a folder; those that are not written must not be left of an earlier export.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
)
PADDING = "<pad>"


def files(tokenizer: Tokenizer, *, n_ctx: int) -> dict[str, Any]:
    """The contents of the files by their names: JSON, text, or bytes.

    Raises UserError where the tokenizers library would give other ids.
    """
    tokens = {kind: number for kind, number in _special_ids(tokenizer).items() if number is not None}
    config = {
        # Without it, transformers completes what it finds to the tokenizer of config.json's model type.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_ctx,
        **{f"{kind}_token": tokenizer.decode([number]) for kind, number in tokens.items()},
    }
    written: dict[str, Any] = {"tokenizer.json": tokenizer.definition(), "tokenizer_config.json": config}
    written |= tokenizer.own_files()
    if template := chat_template.jinja(tokenizer):
        # In a file for transformers of today, in the configuration for those before 4.52 and other programs.
        written |= {"chat_template.jinja": template}
        config["chat_template"] = template
    return written


def token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids of generation_config.json: a reply of a chat ends at two tokens."""
    ids: dict[str, Any] = {f"{kind}_token_id": number for kind, number in _special_ids(tokenizer).items()}
    if chat_template.is_for_chats(tokenizer):
        ids["eos_token_id"] = [tokenizer.special_tokens[chat_template.END], tokenizer.end_of_text]
    return ids


def _special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    end = tokenizer.end_of_text
    return {"bos": end, "eos": end, "pad": tokenizer.special_tokens.get(PADDING, end)}
