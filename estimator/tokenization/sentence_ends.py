"""Which ids of a vocabulary end a sentence."""

import numpy as np

from estimator.tokenization.tokenizer import Tokenizer

MARKS = (".", "!", "?", "\u2026", "\u3002")  # the ellipsis and the ideographic full stop
CLOSING = "\"')]\u2019\u201d\u300d"  # single and double quotes, and the right corner bracket
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
