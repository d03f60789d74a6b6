"""The files that transformers writes next to a vocabulary: tokens that were added, and which token ends a document.

Where they disagree, `tokenizer_config.json` wins over `special_tokens_map.json`, and that over `added_tokens.json`.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from estimator.errors import UserError
from estimator.tokenization.json_files import read_object

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
MAX_ID = 1 << 24
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPECIAL_NAME = re.compile(r"<[^<>\s]+>|\[[A-Z]+[0-9]*\]")


class SpecialFiles(NamedTuple):
    """special: names of special tokens and their flags. added: ids of added tokens. ends: names of end-of-text."""

    special: dict[str, dict[str, bool]]
    added: dict[str, int]
    ends: tuple[str, ...]
    flags: dict[str, dict[str, bool]]
    """Flags of added tokens, `special` among them; without an entry, a token that is not in `special` is text."""


def read(folder: Path) -> SpecialFiles:
    """What the files in a folder say; nothing where there are none. UserError where one cannot be read."""
    expected = "an object, as transformers writes it"
    contents = {
        name: read_object(folder / name, expected=expected)
        for name in (CONFIG, MAP, ADDED)
        if (folder / name).is_file()
    }
    maps = [contents[name] for name in (CONFIG, MAP) if name in contents]
    special = {name: flags for values in reversed(maps) for name, flags in _special(values).items()}
    added = {name: _checked(name, number, folder / ADDED) for name, number in contents.get(ADDED, {}).items() if name}
    decoder = contents.get(CONFIG, {}).get("added_tokens_decoder")
    flags: dict[str, dict[str, bool]] = {}
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        if name := _name(token):
            added[name] = _checked(name, int(number) if number.isdecimal() else number, folder / CONFIG)
            flags[name] = _flags(token) | {"special": token.get("special") is True}
    if MAP not in contents and not special:  # nothing says which of the added tokens are text
        special |= {name: {} for name in added if name not in flags and _SPECIAL_NAME.fullmatch(name)}
    ends = tuple(name for values in maps if (name := _name(values.get("eos_token"))))
    return SpecialFiles(special, added, ends, flags)


def _name(token: Any) -> str | None:
    """The name of a token that is given as a string or as an object; None for anything else."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) and name else None


def _flags(token: Any) -> dict[str, bool]:
    return {flag: token[flag] is True for flag in FLAGS if flag in token} if isinstance(token, dict) else {}


def _special(values: dict[str, Any]) -> dict[str, dict[str, bool]]:
    more = values.get("additional_special_tokens")
    tokens = [*(values.get(role) for role in _ROLES), *(more if isinstance(more, list) else [])]
    return {name: _flags(token) for token in tokens if (name := _name(token))}


def _checked(name: str, number: Any, path: Path) -> int:
    if type(number) is not int or not 0 <= number < MAX_ID:
        raise UserError(f"{path}: {name!r} has the id {number!r}; expected a number from 0 to {MAX_ID - 1:,}")
    return number
