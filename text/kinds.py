"""Kinds of files that become shards: what their documents are, and what encodes these."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from text import chat, chat_template, corpus, token_lines
from text.corpus import Document
from text.tokenizers import Tokenizer


class Encoder(Protocol):
    """What is needed of a tokenizer to make shards."""

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]: ...


class Kind(NamedTuple):
    """documents_of: as `corpus.documents_of`. encoder: what encodes the documents, by a vocabulary.

    words: the part of a document's text that a vocabulary is learnt from. special_tokens: those that it is given.
    """

    documents_of: Callable[..., Iterator[Document]]
    encoder: Callable[[Tokenizer], Encoder] = lambda vocabulary: vocabulary
    words: Callable[[str], str] = str
    special_tokens: tuple[str, ...] = ()


def _chats(voice: chat.Voice) -> Kind:
    template = partial(chat_template.Template, source="the vocabulary")
    return Kind(partial(chat.documents_of, voice=voice), template, chat.words, chat_template.NAMES)


PLAIN = "plain"
KINDS = {
    PLAIN: Kind(corpus.documents_of),
    "tokens": Kind(token_lines.documents_of, token_lines.LineTokenizer),
    "chat-other": _chats("other"),
    "chat-me": _chats("me"),
}
