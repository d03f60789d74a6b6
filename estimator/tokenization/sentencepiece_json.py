"""A SentencePiece vocabulary that keeps text exactly as a tokenizer.json of the tokenizers library.

A blank is itself in the pieces, not U+2581, so that this sign in a text becomes its bytes, as it does here.
"""

import itertools
import re
from typing import Any

from estimator.tokenization import vocab_files
from estimator.tokenization.sentencepiece_model import SPACE, Model, Piece, Type

_HEX = "[0-9A-F]"
_BYTE = ("<", "0", "x", _HEX, _HEX, ">")  # how a byte is spelled in the vocabulary


def definition(model: Model, *, special_tokens: dict[str, int]) -> dict[str, Any]:
    """The contents of a tokenizer.json with the ids of `model`, which has no `faults`."""
    texts = [_text(piece) for piece in model.pieces]
    normal = [text for text, piece in zip(texts, model.pieces, strict=True) if piece.type is Type.NORMAL]
    user_defined = [(texts[i], i) for i, piece in enumerate(model.pieces) if piece.type is Type.USER_DEFINED]
    added = [vocab_files.added_token(name, i) for name, i in special_tokens.items()]
    added += [vocab_files.added_token(name, i, special=False) for name, i in user_defined]
    unknown = next(i for i, piece in enumerate(model.pieces) if piece.type is Type.UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(normal) if model.model_type == "unigram" else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": _unigram(model, texts, unknown)
        if model.model_type == "unigram"
        else _bpe(model, texts, set(normal), unknown),
    }


def _text(piece: Piece) -> str:
    return piece.text.replace(SPACE, " ") if piece.type in (Type.NORMAL, Type.USER_DEFINED) else piece.text


def _pre_tokenizer(texts: list[str]) -> dict[str, Any]:
    """Divides "<0x41>" in a text, which a unigram model would take for the byte, where no piece spans the division."""
    pairs = ["".join(pair) for pair in itertools.pairwise(_BYTE)]
    spanned = [any(re.search(pair, text) for text in texts) for pair in pairs]
    cut = 1 + (spanned.index(False) if False in spanned else 0)
    before, last, after = "".join(_BYTE[: cut - 1]), _BYTE[cut - 1], "".join(_BYTE[cut:])
    pattern = f"(?<={before}){last}(?={after})" if before else f"{last}(?={after})"
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "MergedWithPrevious", "invert": False}


def _unigram(model: Model, texts: list[str], unknown: int) -> dict[str, Any]:
    vocab = [[text, piece.score] for text, piece in zip(texts, model.pieces, strict=True)]
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": True}


def _bpe(model: Model, texts: list[str], normal: set[str], unknown: int) -> dict[str, Any]:
    ids = {text: i for i, text in enumerate(texts)}
    by_score = sorted(normal, key=lambda text: (-model.pieces[ids[text]].score, ids[text]))
    pairs = ((text[:i], text[i:]) for text in by_score for i in range(1, len(text)))
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": texts[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": ids,
        "merges": [list(pair) for pair in pairs if normal.issuperset(pair)],
    }
