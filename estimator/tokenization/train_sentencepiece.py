"""Learns a SentencePiece vocabulary that keeps text exactly: no character is rewritten, no blank added or squeezed.

Ids are `<unk>`, `<|endoftext|>`, further special tokens, the user's own symbols, the 256 bytes, learned pieces.
The library learns from sentences: lines here, without their ends. A newline or tab is never part of a piece; it is
encoded as its byte, or as a symbol of its own where there are no bytes. The same text gives the same file.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from estimator.errors import UserError, import_failed
from estimator.tokenization import corpus_sample, vocab_files
from estimator.tokenization.sentencepiece import INSTALL, SentencePiece
from estimator.tokenization.sentencepiece_model import SPACE
from estimator.tokenization.train_bpe import DEFAULT_MAX_MEMORY, NothingToLearnError, sample

MODEL_TYPES = ("bpe", "unigram")
DEFAULT_COVERAGE = 0.9995
# Measured, bytes of memory a byte of text: see docs/tokenizers.md.
COSTS = {"bpe": corpus_sample.Cost(24, 45), "unigram": corpus_sample.Cost(30, 30)}
# Text between these is a sentence: controls, the library's sign for a blank, and a sign that it keeps for itself.
_BETWEEN = re.compile(f"[\x00-\x1f\x7f{SPACE}\u2585]+")
# The library counts places in a sentence with 16 bits and skips longer ones: they are cut, if possible before a blank.
_SENTENCE = re.compile(r".{1,8000}(?= |\Z)|.{1,8000}")
# What a vocabulary without bytes cannot do without.
_CONTROLS = ["\n", "\t"]


def train_sentencepiece(
    documents: Iterable[str],
    *,
    n_vocab: int,
    out: Path,
    model_type: str = "bpe",
    byte_fallback: bool = True,
    character_coverage: float = DEFAULT_COVERAGE,
    special_tokens: Sequence[str] = (),
    user_symbols: Sequence[str] = (),
    max_memory: int = DEFAULT_MAX_MEMORY,
    sample_bytes: int | None = None,
    note: Callable[[str], None] = print,
) -> SentencePiece:
    """Learns at most `n_vocab` tokens and writes them to the folder `out` as tokenizer.model.

    model_type: "bpe", merges of frequent pairs, or "unigram", the pieces that make the text likeliest.
    byte_fallback: spell characters that are not in the vocabulary in bytes; without it they are lost.
    character_coverage: the share of the text's characters that are entries, the rarest being left out.
    special_tokens: names to follow `<|endoftext|>`; never read in text. user_symbols: always read in text, whole.
    max_memory, sample_bytes, note: as for `train_byte_bpe`.
    Raises UserError where n_vocab has no room for all characters, there is no text, or a name cannot be one.
    """
    if not 0 < character_coverage <= 1:
        raise UserError(f"a character coverage of {character_coverage} is no share; give more than 0, at most 1")
    specials = [name for name in dict.fromkeys(special_tokens) if name != vocab_files.END_OF_TEXT]
    symbols = list(dict.fromkeys([*user_symbols, *([] if byte_fallback else _CONTROLS)]))
    _check_names(specials, symbols)
    try:
        import sentencepiece
    except ImportError as error:
        raise import_failed(error, INSTALL) from error
    texts = sample(documents, max_memory, sample_bytes, COSTS[model_type], note)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=n_vocab,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            required_chars=SPACE,
            control_symbols=specials,
            user_defined_symbols=symbols,
            unk_id=0,
            eos_id=1,
            eos_piece=vocab_files.END_OF_TEXT,
            bos_id=-1,
            pad_id=-1,
            shuffle_input_sentence=False,
            max_sentence_length=1 << 16,
            num_threads=16,  # parts of the sums of "unigram": another number gives other roundings
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), n_vocab) from None
    tokenizer = SentencePiece(model.getvalue(), source="the new vocabulary")
    tokenizer.save(out)
    return tokenizer


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """The texts as the library learns from them."""
    for text in texts:
        for line in _BETWEEN.split(text):
            yield from _SENTENCE.findall(line)


def _check_names(specials: list[str], symbols: list[str]) -> None:
    for name in [*specials, *symbols]:
        if name not in _CONTROLS and (not name or re.search(rf"\s|{SPACE}", name)):
            raise UserError(f"{name!r} cannot be a token of its own: it is empty or has a blank; choose another name")
        if name == "<unk>" or re.fullmatch("<0x[0-9A-F]{2}>", name):
            raise UserError(f"{name!r} cannot be a token of its own: SentencePiece uses the name; choose another")
    if both := set(symbols) & {*specials, vocab_files.END_OF_TEXT}:
        raise UserError(f"{min(both)!r} cannot be a special token and a symbol of text both; choose one")


def _explained(error: str, n_vocab: int) -> UserError:
    if found := re.search(r"required_chars\. (\d+) vs (\d+)", error):
        return UserError(
            f"a vocabulary of {n_vocab} is too small: the bytes, the special tokens and the characters of the text "
            f"make {found[2]}; give --vocab_size more, or --character_coverage less"
        )
    if "sentences_.empty" in error:
        return NothingToLearnError()
    return UserError(f"SentencePiece cannot learn from this text ({error}); try another --model_type or --vocab_size")
