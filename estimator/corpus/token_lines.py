"""Lines of tokens: text that is cut into the words of a vocab.txt already, one sequence a line (affjljoo3581/GPT2).

A line becomes the document `<s> tokens`, followed by the end-of-text, `</s>`.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from estimator.corpus import parts, readers
from estimator.corpus.containers import OnFault
from estimator.corpus.documents import Document
from estimator.corpus.parts import Part
from estimator.errors import UserError
from estimator.tokenization import wordpiece
from estimator.tokenization.tokenizer import Tokenizer


def documents_of(
    part: Part, *, reading: parts.Reading = parts.PLAIN, on_fault: OnFault = parts.refuse, **options: Any
) -> Iterator[Document]:
    """Every line of the part that is not blank; none of a vocabulary file.

    reading: only its encoding is looked at. on_fault, options: as for `documents.documents_of`.
    """
    if os.path.basename(part.path) == wordpiece.FILE:
        return
    if on_fault is not parts.refuse and not readers.is_readable(part, reading, on_fault):
        return
    for number, line in readers.lines(part, encoding=reading.encoding, on_fault=on_fault):
        if line.strip():
            yield Document(f"{part.stem}-{number}", line)


class LineTokenizer:
    """Encodes lines of tokens. A `formats.Encoder`."""

    def __init__(self, vocabulary: Tokenizer):
        if not isinstance(vocabulary, wordpiece.WordPiece):
            raise UserError(
                f'text_format: "tokens" is for the vocabulary of a {wordpiece.FILE}, and encoder_path has another; '
                'name its folder, or set text_format to "plain"'
            )
        self._vocabulary = vocabulary
        self._start = vocabulary.special_tokens[wordpiece.START]
        self.n_vocab, self.end_of_text, self.digest = vocabulary.n_vocab, vocabulary.end_of_text, vocabulary.digest

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        encode = self._vocabulary.encode_pretokenized
        return [np.array([self._start, *encode(text.decode())], np.int32) for text in texts]
