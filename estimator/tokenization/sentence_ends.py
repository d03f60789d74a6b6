"""Which ids of a vocabulary end a sentence."""

import numpy as np

from estimator.tokenization.tokenizer import Tokenizer

MARKS = (".", "!", "?", "\N{HORIZONTAL ELLIPSIS}", "\N{IDEOGRAPHIC FULL STOP}")
CLOSING = "\"')]\N{RIGHT SINGLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT CORNER BRACKET}"
NAMES = (b"<endofline>", b"<endoftext>")  # what the vocabularies of transformer-lm call the ends of lines and of files


def sentence_ends(tokenizer: Tokenizer) -> np.ndarray:
    """bool [n_vocab]: ids whose text holds the end of a line, or ends with a full stop or the like, quotes aside."""
    ends = np.zeros(tokenizer.n_vocab, bool)
    for number in range(tokenizer.n_vocab):
        written = tokenizer.decode_bytes([number])
        text = written.decode(errors="replace").rstrip(" ")
        ends[number] = "\n" in text or text.rstrip(CLOSING).endswith(MARKS) or written in NAMES
    if tokenizer.end_of_text is not None:
        ends[tokenizer.end_of_text] = True
    return ends
