"""Learns a vocabulary of one's own: byte-level BPE that cuts text exactly as GPT-2's does.

Ids are the 256 bytes, then the merges in the order learned, then `<|endoftext|>`, then further special tokens. The same
text gives the same vocabulary. See `estimator/tokenization/train_sentencepiece.py` for the other kind.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers

from estimator.errors import UserError
from estimator.tokenization import corpus_sample, vocab_files
from estimator.tokenization.tokenizer import ByteLevelBPE, Tokenizer, byte_level_tokenizer, with_special_tokens

SMALLEST = 257


class NothingToLearnError(UserError):
    """No text, which the caller can name, to learn from."""

    def __init__(self) -> None:
        super().__init__("no text to learn a vocabulary from: nothing but blanks; give text")


DEFAULT_MAX_MEMORY = 4_000_000_000
# Measured: 5 and 110 bytes. Each different word is held with some 30 bytes a byte; in scripts without blanks, where a
# clause is a word, nearly every word is different.
COST = corpus_sample.Cost(ascii=8, other=120)
MANY_CHARACTERS = 20_000_000  # whose vocabulary takes several seconds, so that progress is shown


def train_byte_bpe(
    documents: Iterable[str],
    *,
    n_vocab: int,
    out: Path,
    special_tokens: Sequence[str] = (),
    max_memory: int = DEFAULT_MAX_MEMORY,
    sample_bytes: int | None = None,
    note: Callable[[str], None] = print,
) -> Tokenizer:
    """Learns at most `n_vocab` tokens and writes them to the folder `out` as tokenizer.json.

    n_vocab: entries in all; 257 is the bytes and `<|endoftext|>`. Text too short to give that many merges gives fewer.
    special_tokens: names to follow `<|endoftext|>`.
    max_memory: bytes; of text that would need more, an even sample is used, and `note` is called.
    sample_bytes: the size of that sample, whatever memory it needs.
    Raises UserError when n_vocab is too small or there is no text.
    """
    added = [name for name in dict.fromkeys(special_tokens) if name != vocab_files.END_OF_TEXT]
    smallest = SMALLEST + len(added)
    if n_vocab < smallest:
        raise UserError(
            f"a vocabulary of {n_vocab} is too small: the 256 bytes and {', '.join([vocab_files.END_OF_TEXT, *added])} "
            f"make {smallest}"
        )
    if n_vocab == smallest:
        tokenizer = byte_level_tokenizer()
    else:
        tokenizer = _learn(sample(documents, max_memory, sample_bytes, COST, note), n_merges=n_vocab - smallest)
    tokenizer = with_special_tokens(tokenizer, added)
    tokenizer.save(out)
    return tokenizer


def sample(
    documents: Iterable[str],
    max_memory: int,
    sample_bytes: int | None,
    cost: corpus_sample.Cost,
    note: Callable[[str], None],
) -> list[str]:
    """The texts to learn from: all of them, or a sample that fits the memory. Raises UserError without text."""
    if sample_bytes is None:
        taken = corpus_sample.even(documents, limit=max_memory, cost=cost)
    else:
        taken = corpus_sample.even(documents, limit=sample_bytes)
    if not any(text.strip() for text in taken.texts):
        raise NothingToLearnError
    if taken.size < taken.of_size:
        note(f"learning from {taken}")
    return taken.texts


def _learn(texts: list[str], *, n_merges: int) -> Tokenizer:
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(vocab_files.BYTE_VOCAB) + n_merges,
        # A pair that occurs once teaches nothing about other text.
        min_frequency=2,
        initial_alphabet=list(vocab_files.BYTE_VOCAB),
        show_progress=sys.stderr.isatty() and sum(map(len, texts)) > MANY_CHARACTERS,
    )
    learner.train_from_iterator(texts, trainer, length=len(texts))
    model = json.loads(learner.to_str())["model"]
    contents = vocab_files.definition(vocab=model["vocab"], merges=model["merges"])
    return ByteLevelBPE(vocab_files.checked(contents, source="the new vocabulary"), source="the new vocabulary")
