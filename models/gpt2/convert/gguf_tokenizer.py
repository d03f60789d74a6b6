"""The vocabulary of a GGUF file, where llama.cpp gives the same ids; what it would read otherwise is refused."""

import itertools
from typing import Any

from estimator.corpus import chat_template
from estimator.errors import UserError
from estimator.tokenization.sentencepiece import SentencePiece
from estimator.tokenization.sentencepiece_model import Type
from estimator.tokenization.tokenizer import ByteLevelBPE, Tokenizer

_FLAGS = ("single_word", "lstrip", "rstrip")
_CHOICES = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout")


def add(writer: Any, tokenizer: Tokenizer, *, n_vocab: int) -> None:
    """Adds the vocabulary to a gguf.GGUFWriter, with unused tokens up to n_vocab.

    Raises UserError where llama.cpp would give other ids.
    """
    if tokenizer.end_of_text is None:
        raise UserError(
            "--to gguf: the vocabulary has no end-of-text token, and llama.cpp would take its id 11 for one"
        )
    if isinstance(tokenizer, ByteLevelBPE):
        _add_byte_level(writer, tokenizer.definition(), n_vocab=n_vocab)
    elif isinstance(tokenizer, SentencePiece):
        _add_sentencepiece(writer, tokenizer, n_vocab=n_vocab)
    else:
        raise UserError("--to gguf: llama.cpp reads WordPiece as BERT does, with other ids; export with --to hf")
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_pad_token_id(tokenizer.end_of_text)
    if template := chat_template.jinja(tokenizer):
        writer.add_chat_template(template)
        writer.add_eot_token_id(tokenizer.special_tokens[chat_template.END])


def _add_byte_level(writer: Any, contents: dict[str, Any], *, n_vocab: int) -> None:
    import gguf

    model, added = contents["model"], contents["added_tokens"]
    if reason := _difference(contents):
        raise UserError(f"--to gguf: {reason}; export with --to hf")
    tokens, types = _unused(n_vocab)
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    for token in added:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]], types[token["id"]] = token["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])


def _difference(contents: dict[str, Any]) -> str | None:
    """Why llama.cpp's `gpt-2` would give other ids than a tokenizer.json."""
    model, cut = contents["model"], contents.get("pre_tokenizer") or {}
    if cut.get("type") != "ByteLevel" or cut.get("add_prefix_space") or not cut.get("use_regex", True):
        return "the vocabulary cuts text in another way than GPT-2, for which no name of llama.cpp is known here"
    if contents.get("normalizer"):
        return "the vocabulary changes text before encoding it (normalizer), which GGUF cannot say"
    if chosen := [name for name in _CHOICES if model.get(name)]:
        return f"the vocabulary has {', '.join(chosen)}, which GGUF cannot say"
    for token in contents["added_tokens"]:
        if flags := [flag for flag in _FLAGS if token.get(flag)]:
            return f"the added token {token['content']!r} has {', '.join(flags)}, which llama.cpp does not read"
    for one, other in itertools.permutations([token["content"] for token in contents["added_tokens"]], 2):
        if any(one.endswith(other[:size]) for size in range(1, min(len(one), len(other)))):
            return f"the added tokens {one!r} and {other!r} can overlap in a text, which llama.cpp divides otherwise"
    return None


def _add_sentencepiece(writer: Any, tokenizer: SentencePiece, *, n_vocab: int) -> None:
    import gguf

    model = tokenizer.model
    tokenizer.definition()  # raises what no other program reads exactly
    if model.model_type != "BPE":
        raise UserError("--to gguf: llama.cpp has no unigram vocabulary with bytes; export with --to hf")
    tokens, types = _unused(n_vocab)
    scores = [-1e9] * n_vocab
    for number, piece in enumerate(model.pieces):
        tokens[number], types[number], scores[number] = piece.text, gguf.TokenType(piece.type), piece.score
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(False)
    writer.add_unk_token_id(next(i for i, piece in enumerate(model.pieces) if piece.type is Type.UNKNOWN))


def _unused(n_vocab: int) -> tuple[list[str], list[int]]:
    import gguf

    return [f"[PAD{i}]" for i in range(n_vocab)], [gguf.TokenType.UNUSED] * n_vocab
