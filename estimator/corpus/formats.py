"""Kinds of files that become shards: what their documents are, and what encodes these."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from estimator.corpus import chat_files, chat_template, documents, token_lines
from estimator.corpus.documents import Document
from estimator.tokenization.tokenizer import Tokenizer


class Encoder(Protocol):
    """The part of a tokenizer that making shards needs."""

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]: ...


class InputFormat(NamedTuple):
    """documents_of: as `corpus.documents_of`. encoder: what encodes the documents, by a vocabulary.

    words: the part of a document's text that a vocabulary is trained on. special_tokens: added to it.
    """

    documents_of: Callable[..., Iterator[Document]]
    encoder: Callable[[Tokenizer], Encoder] = lambda vocabulary: vocabulary
    words: Callable[[str], str] = str
    special_tokens: tuple[str, ...] = ()


def _chats(voice: chat_files.Voice) -> InputFormat:
    template = partial(chat_template.Template, source="the vocabulary")
    return InputFormat(partial(chat_files.documents_of, voice=voice), template, chat_files.words, chat_template.NAMES)


PLAIN = "plain"
KINDS = {
    PLAIN: InputFormat(documents.documents_of),
    "tokens": InputFormat(token_lines.documents_of, token_lines.LineTokenizer),
    "chat-other": _chats("other"),
    "chat-me": _chats("me"),
}
