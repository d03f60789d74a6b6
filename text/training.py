"""Trains a vocabulary of one's own: byte-level BPE that cuts text exactly as GPT-2's does.

Ids are the 256 bytes, then the merges in the order learnt, then `<|endoftext|>`. The same text gives the same
vocabulary.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from runtime.errors import UserError
from text import vocabulary
from text.tokenizers import ByteLevelBPE, Tokenizer, byte_level_tokenizer

SMALLEST = 257
DEFAULT_MAX_BYTES = 1_000_000_000


def train_byte_bpe(
    documents: Iterable[str], *, n_vocab: int, out: Path, max_bytes: int = DEFAULT_MAX_BYTES
) -> Tokenizer:
    """Learns at most `n_vocab` tokens and writes them to the folder `out` as tokenizer.json.

    n_vocab: entries in all, `<|endoftext|>` being the last; 257 is the bytes alone. Text too short to give that many
        merges gives fewer.
    max_bytes: of longer text, an even sample of its documents, half of this to all of it, is held and learnt from.
    Raises UserError when n_vocab is below 257 or there is no text.
    """
    if n_vocab < SMALLEST:
        raise UserError(
            f"a vocabulary of {n_vocab} is too small: the 256 bytes and {vocabulary.END_OF_TEXT} make {SMALLEST}"
        )
    if n_vocab == SMALLEST:
        tokenizer = byte_level_tokenizer()
    else:
        tokenizer = _learn(sample(documents, max_bytes=max_bytes), n_merges=n_vocab - SMALLEST)
    tokenizer.save(out)
    return tokenizer


def sample(documents: Iterable[str], *, max_bytes: int) -> list[str]:
    """All documents if they fit, else every second, fourth, eighth ... of them: whichever fits first."""
    kept: list[str] = []
    stride = 1
    size = 0
    for number, text in enumerate(documents):
        if number % stride:
            continue
        kept.append(text)
        size += len(text.encode(errors="replace"))
        while size > max_bytes and len(kept) > 1:
            kept = kept[::2]
            stride *= 2
            size = sum(len(text.encode(errors="replace")) for text in kept)
    return kept


def _learn(texts: list[str], *, n_merges: int) -> Tokenizer:
    if not any(text.strip() for text in texts):
        raise UserError("no text to learn a vocabulary from")
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(vocabulary.BYTE_VOCAB) + n_merges,
        # A pair that occurs once teaches nothing about other text.
        min_frequency=2,
        initial_alphabet=list(vocabulary.BYTE_VOCAB),
        show_progress=sys.stderr.isatty(),
    )
    learner.train_from_iterator(texts, trainer, length=len(texts))
    model = json.loads(learner.to_str())["model"]
    contents = vocabulary.definition(vocab=model["vocab"], merges=model["merges"])
    return ByteLevelBPE(vocabulary.checked(contents, source="the new vocabulary"), source="the new vocabulary")
