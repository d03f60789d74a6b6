"""The chat template: special tokens, which no text is encoded to, separate the messages.

    <|system|>TEXT<|end|><|user|>TEXT<|end|><|assistant|>TEXT<|end|><|user|>...

This is how a conversation is written in a shard; in a window and in a prompt, end-of-text stands before it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from estimator.corpus.chat_files import BEGINS, ENDS, Message, Role, as_text
from estimator.errors import UserError
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.tokenizer import Tokenizer

HEADERS: dict[Role, str] = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
END = "<|end|>"
NAMES = (*HEADERS.values(), END)
_MARKS = re.compile("([" + "".join(BEGINS.values()) + ENDS + "])")


def extended(tokenizer: Tokenizer, *, n_vocab: int | None = None) -> Tokenizer:
    """The vocabulary with the tokens of the template, at new ids after its last where it lacks them.

    n_vocab: of the model, if there is one; UserError when it has no room.
    """
    larger = tokenizers.with_special_tokens(tokenizer, NAMES)
    if n_vocab is not None and larger.n_vocab > n_vocab:
        raise UserError(
            f"n_vocab is {n_vocab}, but with the {larger.n_vocab - tokenizer.n_vocab} tokens of the chat template "
            f"({', '.join(NAMES)}) the vocabulary has {larger.n_vocab} entries; set n_vocab to {larger.n_vocab} or more"
        )
    return larger


def jinja(tokenizer: Tokenizer) -> str | None:
    """The template as other programs read it, in Jinja; None for a vocabulary without its tokens."""
    if not is_for_chats(tokenizer) or tokenizer.end_of_text is None:
        return None
    begin = tokenizer.decode([tokenizer.end_of_text])
    return (
        f"{{{{ '{begin}' }}}}"
        "{% for message in messages %}"
        f"{{% if message['role'] not in {list(HEADERS)} %}}"
        "{{ raise_exception('roles are system, user and assistant') }}{% endif %}"
        "{% if message['content'] is not string %}{{ raise_exception('content is one text') }}{% endif %}"
        f"{{{{ '<|' + message['role'] + '|>' + message['content'] | trim + '{END}' }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{HEADERS['assistant']}' }}}}{{% endif %}}"
    )


def is_for_chats(tokenizer: Tokenizer) -> bool:
    """Whether a vocabulary has the tokens of the template."""
    return all(name in tokenizer.special_tokens for name in NAMES)


class Template:
    """Conversations as ids of a vocabulary that has the tokens of the template."""

    def __init__(self, tokenizer: Tokenizer, *, source: str | Path):
        """source: the name that errors give the vocabulary."""
        special = tokenizer.special_tokens
        missing = [name for name in NAMES if name not in special]
        if missing or tokenizer.end_of_text is None:
            raise UserError(
                f"{source}: the vocabulary lacks {', '.join(missing) or '<|endoftext|>'}, which chats need; shards of "
                "chats are made by datasets/encode.py --chat, which adds the tokens"
            )
        self.digest = tokenizer.digest
        self.end_of_text: int = tokenizer.end_of_text
        self.headers: dict[Role, int] = {role: special[name] for role, name in HEADERS.items()}
        self.end = special[END]
        self._tokenizer = tokenizer
        self._marks = {BEGINS[role]: self.headers[role] for role in BEGINS} | {ENDS: self.end}

    def encode(self, messages: Sequence[Message]) -> np.ndarray:
        """int32: the ids of a conversation."""
        return self.encode_batch([as_text(messages)])[0]

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return self.encode_batch([text.decode() for text in texts])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes conversations (see `estimator.corpus.chat_files`); marks become control tokens, messages never do.

        Returns an int32 array for each text.
        """
        pieces = [_MARKS.split(text) for text in texts]  # words and marks in turn
        words = iter(self._tokenizer.encode_batch([word for each in pieces for word in each[::2]]))
        marks = self._marks
        return [
            np.concatenate(
                [next(words) if i % 2 == 0 else np.array([marks[part]], np.int32) for i, part in enumerate(each)]
            )
            for each in pieces
        ]
