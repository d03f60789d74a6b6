"""Lines of tokens: text that is cut into the words of a vocab.txt already, one sequence a line (affjljoo3581/GPT2).

A line becomes the document `<s> tokens`, and as end-of-text is `</s>`, that stands after it.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from runtime.errors import UserError
from text import corpus, wordpiece
from text.corpus import Document
from text.tokenizers import Tokenizer


def documents(paths: Sequence[str]) -> Iterator[Document]:
    """Every line that is not blank of the files, in their order; a vocabulary that lies among them is left out."""
    empty = True
    for path in paths:
        name = os.path.basename(path)
        for number, line in corpus.lines(path) if name != wordpiece.FILE else ():
            if line.strip():
                empty = False
                yield Document(f"{name.removesuffix('.txt')}-{number}", line)
    if empty:
        raise corpus.no_text(paths)


class LineTokenizer:
    """Encodes lines of tokens. Has what `prepare.encode_corpus` needs of a tokenizer."""

    def __init__(self, vocabulary: Tokenizer):
        if not isinstance(vocabulary, wordpiece.WordPiece):
            raise UserError(
                f'text_format: "tokens" is for the vocabulary of a {wordpiece.FILE}, and encoder_path has another; '
                'name its folder, or set text_format to "plain"'
            )
        self._vocabulary = vocabulary
        self._start = vocabulary.special_tokens[wordpiece.START]
        self.n_vocab, self.end_of_text, self.digest = vocabulary.n_vocab, vocabulary.end_of_text, vocabulary.digest

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([self._start, *self._vocabulary.encode_pretokenized(text)], np.int32) for text in texts]
