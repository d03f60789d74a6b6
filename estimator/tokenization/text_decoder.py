"""Decodes tokens one by one, and finds the words that they make up."""

import codecs
from collections.abc import Sequence

from estimator.tokenization.tokenizer import Tokenizer


class TextDecoder:
    """Decodes tokens one by one; a character is returned once its last byte has arrived."""

    def __init__(self, tokenizer: Tokenizer, previous: int | None = None):
        """previous: the token before the first; WordPiece and SentencePiece decode by it."""
        self._tokenizer, self._previous = tokenizer, previous
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.characters = 0
        """Whole characters given so far."""
        self.begin = 0
        """Characters before the last token; a U+FFFD for bytes that it cuts off is one of them."""

    @property
    def end(self) -> int:
        """Characters of all tokens so far, with the U+FFFD that `finish` would give."""
        return self.characters + len(_replaced(self._pending))

    @property
    def _pending(self) -> bytes:
        """The bytes of a character that is not whole yet."""
        return self._utf8.getstate()[0]

    def push(self, token: int) -> str:
        """The characters that a token completes."""
        before = [] if self._previous is None else [self._previous]
        data = self._tokenizer.decode_bytes([*before, token])[len(self._tokenizer.decode_bytes(before)) :]
        self._previous = token
        cut_off = self._utf8.decode(b"", final=True) if _cuts_off(self._pending, data) else ""
        self.begin = self.characters + len(cut_off)
        return self._counted(cut_off + self._utf8.decode(data))

    def finish(self) -> str:
        """U+FFFD for the bytes of a character that was cut off, else nothing."""
        return self._counted(self._utf8.decode(b"", final=True))

    def _counted(self, text: str) -> str:
        self.characters += len(text)
        return text


def _cuts_off(pending: bytes, data: bytes) -> bool:
    """Whether the first byte cannot belong to the character that is not whole; some bytes from 0x80 on cannot."""
    return bool(pending and data) and len(_replaced(pending + data[:1])) > 1


def _replaced(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as a string of its own; bytes that are no whole characters in OpenAI's form, "bytes:\xf0\x9f"."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def word_begins(pieces: Sequence[str]) -> list[bool]:
    """Whether each token's text begins a word. White space at the end of the text belongs to its last word."""
    begins, before = [], ""
    for piece in pieces:
        is_new = not begins or _begins_word(before, piece)
        before = piece if is_new else before + piece
        begins.append(is_new)
    if begins and not before.strip():
        last = len(begins) - 1 - begins[::-1].index(True)
        begins[last] = last == 0
    return begins


def _begins_word(before: str, text: str) -> bool:
    """Whether a token's text begins a word after `before`, the word so far: words begin with the space before them."""
    return bool(before.strip()) and (text[:1].isspace() or before[-1:].isspace())


def start_of_document(tokenizer: Tokenizer) -> list[int]:
    """The prompt without text: end-of-text, which stands before each document; nothing where there is none."""
    return [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
