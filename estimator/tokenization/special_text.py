"""Special tokens whose names are written in text: `<|startoftext|>` before each text of a file, the roles of a chat."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from estimator.errors import UserError
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import split_at, utf8


class SpecialText:
    """A tokenizer that reads some names in text as the special tokens that they name; all else is the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str]):
        """names: of special tokens. UserError where the vocabulary lacks one."""
        missing = [name for name in names if name not in tokenizer.special_tokens]
        if missing:
            has = ", ".join(tokenizer.special_tokens) or "none"
            raise UserError(
                f"special: the vocabulary has no special token {', '.join(missing)}, but {has}; leave it out, or "
                "make a vocabulary with datasets/train_tokenizer.py --special_tokens"
            )
        self._tokenizer = tokenizer
        self._names = {name: tokenizer.special_tokens[name] for name in names}
        self._marks = [name.encode() for name in names]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [int(i) for part in split_at(text, self._names) for i in self._of(part)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An int32 array for each text."""
        return self.encode_utf8([utf8(text) for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """An int32 array for each text, which is UTF-8; what no name is in is encoded together, fast."""
        plain = [text for text in texts if not any(mark in text for mark in self._marks)]
        encoded = iter(self._tokenizer.encode_utf8(plain) if plain else [])
        return [
            np.array(self.encode(text.decode()), np.int32)
            if any(mark in text for mark in self._marks)
            else next(encoded)
            for text in texts
        ]

    def _of(self, part: str) -> Sequence[int]:
        return [self._names[part]] if part in self._names else self._tokenizer.encode(part)


def without(text: str, names: Iterable[str]) -> str:
    """The text without the names that are read as special tokens."""
    chosen = set(names)
    return "".join(part for part in split_at(text, chosen) if part not in chosen)


def bytes_of(tokenizer: Tokenizer, ids: Sequence[int]) -> bytes:
    """The bytes of text of some ids; special tokens have none."""
    special = set(tokenizer.special_tokens.values())
    return tokenizer.decode_bytes([id_ for id_ in ids if id_ not in special])


def reading(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The tokenizer, reading these names in text as special tokens, if there are any."""
    return SpecialText(tokenizer, names) if names else tokenizer  # type: ignore[return-value]
