"""Vocabulary files: found in a folder; those of a byte-level BPE read and checked into one form, a `tokenizer.json`.

Knows where the pieces of a byte-level BPE are and what makes them valid; encodes nothing (see `text/tokenizers.py`).
"""

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError

END_OF_TEXT = "<|endoftext|>"
# What families of vocabularies call the token that ends a document, in the order in which they are looked for.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<endoftext>", "</s>")
BYTE_LEVEL, SENTENCEPIECE, WORDPIECE = "byte-level BPE", "SentencePiece", "WordPiece"
_BY_SUFFIX = {".model": SENTENCEPIECE, ".txt": WORDPIECE}
# Where two implementations of byte-level BPE could disagree: contractions, runs of spaces, line ends, digits, letters
# of many scripts, joined emoji, combining marks, controls, unassigned code points, special tokens.
PROBE = (
    "I'll don'T we've  two   spaces\t\ttab\r\nCRLF\n\n\n 1234567890 3.14 na\u00efve e\u0301 \u65e5\u672c\u8a9e\u306e "
    "\ud55c\uad6d \u0440\u0443\u0441 \u0e44\u0e17\u0e22 \U0001f469\u200d\U0001f467 \u00a0nbsp\u2003em\u200b "
    "a<|endoftext|>b <|endoftext|> \x00\x1f\x7f\x85 \u0378\U000e0041\uffff xxxxxxxxxxxxxxxxxxxx _a_b_ ))(( \u00bd "
)
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
HOW_TO_GET_ONE = (
    "`python3 download_model.py 124M` fetches GPT-2's, `python3 datasets/train_tokenizer.py` trains one of your own"
)
EXPECTED = "expected the tokenizer.json of a byte-level BPE"
MAX_ID = 1 << 24


def _byte_to_char() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_CHARS = _byte_to_char()
_CHARS_TO_BYTES = codecs.charmap_build("".join(_CHARS))
# GPT-2's first 256 ids: the bytes in the order of their characters.
BYTE_VOCAB = {char: i for i, char in enumerate(sorted(_CHARS))}
# 0xC0, 0xC1 and 0xF5 to 0xFF never occur in UTF-8; a vocabulary may do without them.
UTF8_BYTES = sorted(set(range(256)) - {0xC0, 0xC1} - set(range(0xF5, 0x100)))


def kind(path: Path) -> tuple[str, Path]:
    """The kind of the vocabulary in a folder or that a file belongs to, and the file, or for byte-level BPE `path`.

    Raises UserError where vocabularies of several kinds lie in one folder.
    """
    if path.is_file():
        return (BYTE_LEVEL if path.name == "merges.txt" else _BY_SUFFIX.get(path.suffix, BYTE_LEVEL)), path
    found = [file for file in files(path) if file.name not in ("vocab.bpe", "merges.txt")]
    kinds = {_BY_SUFFIX.get(file.suffix, BYTE_LEVEL) for file in found}
    if len(kinds) > 1 or (len(found) > 1 and BYTE_LEVEL not in kinds):
        names = ", ".join(file.name for file in found)
        raise UserError(f"{path} holds several vocabularies ({names}); name the file that is meant, or move the others")
    (the_kind,) = kinds or {BYTE_LEVEL}
    return the_kind, path if the_kind == BYTE_LEVEL else found[0]


def files(folder: Path) -> list[Path]:
    """The files in a folder that are vocabularies, or halves of one."""
    named = [folder / name for name in ("tokenizer.json", *itertools.chain(*PAIRS), "vocab.txt")]
    return [file for file in [*named, *sorted(folder.glob("*.model"))] if file.is_file()]


def read(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file to name in errors, and the contents, of the vocabulary in a folder or that a file belongs to.

    Raises UserError when there is none, or it is not a byte-level BPE.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such vocabulary folder; {HOW_TO_GET_ONE}")
    folder = path if path.is_dir() else path.parent
    named = None if path.is_dir() else path.name
    for names in PAIRS:
        # A tokenizer.json in the folder goes first, unless a file of the pair was asked for by its name.
        if named not in names and (named is not None or (folder / "tokenizer.json").is_file()):
            continue
        present = [name for name in names if (folder / name).is_file()]
        if len(present) == 2:
            vocab, merges = (folder / name for name in names)
            return vocab, _read_pair(vocab, merges)
        if present:
            missing = next(name for name in names if name not in present)
            raise UserError(f"{folder} has {present[0]} but not {missing}, and both are needed; {HOW_TO_GET_ONE}")
    file = path if named is not None else folder / "tokenizer.json"
    if file.is_file() and file.suffix == ".json":
        return file, checked(_read_json(file, expected="a tokenizer.json"), source=file)
    raise UserError(
        f"{path} holds no vocabulary: no tokenizer.json, no encoder.json with vocab.bpe, no SentencePiece .model, and "
        f"no vocab.txt; {HOW_TO_GET_ONE}"
    )


def definition(*, vocab: dict[str, int], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The contents of a tokenizer.json with GPT-2's way of cutting text; `<|endoftext|>` goes last if it is missing."""
    end = vocab.get(END_OF_TEXT, max(vocab.values(), default=-1) + 1)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": end, "content": END_OF_TEXT, **flags, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocab, END_OF_TEXT: end},
            "merges": [list(pair) for pair in merges],
        },
    }


def with_special_tokens(
    contents: dict[str, Any], names: Sequence[str], *, first: int, source: str | Path
) -> dict[str, Any]:
    """The contents of a tokenizer.json with more special tokens, at the ids from `first`.

    Raises UserError for a name that is empty or an ordinary token.
    """
    vocab = contents["model"]["vocab"]
    for name in names:
        if not name or name in vocab or name in {token["content"] for token in contents["added_tokens"]}:
            raise UserError(f"{source}: {name!r} cannot be a special token: empty, or an ordinary token; rename it")
    ids = {name: first + number for number, name in enumerate(names)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": name, **flags, "special": True} for name, i in ids.items()]
    return contents | {
        "added_tokens": contents["added_tokens"] + added,
        # Here too, as with end-of-text: the ids of added tokens alone are counted anew by software that reads the file.
        "model": contents["model"] | {"vocab": vocab | ids},
    }


def checked(contents: dict[str, Any], *, source: str | Path) -> dict[str, Any]:
    """The contents of a tokenizer.json, with `<|endoftext|>` declared special and merges as pairs.

    Raises UserError when it is not a byte-level BPE.
    """
    model = contents.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{source}: no model in it; {EXPECTED}")
    kind = model.get("type", "BPE")
    parts = json.dumps([contents.get("pre_tokenizer"), contents.get("decoder")])
    if kind != "BPE" or '"ByteLevel"' not in parts or model.get("byte_fallback"):
        raise UserError(f"{source}: a vocabulary of another kind ({kind}); {EXPECTED}")
    vocab = _checked_vocab(model.get("vocab"), source=source)
    added = contents.get("added_tokens") or []
    if not all(isinstance(token, dict) and {"id", "content", "special"} <= token.keys() for token in added):
        raise UserError(f"{source}: an entry of added_tokens lacks id, content or special; {EXPECTED}")
    added = [token | {"special": token["special"] or token["content"] == END_OF_TEXT} for token in added]
    if END_OF_TEXT in vocab and END_OF_TEXT not in {token["content"] for token in added}:
        added += definition(vocab=vocab, merges=[])["added_tokens"]
    pairs = []
    for number, merge in enumerate(model.get("merges") or []):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not _joins(pair, vocab):
            raise UserError(f"{source}: merge {number} ({merge}) does not join two tokens of the vocab to a third")
        pairs.append(pair)
    return contents | {"added_tokens": added, "model": model | {"merges": pairs}}


def token_table(contents: dict[str, Any], *, source: str | Path) -> list[bytes]:
    """The bytes that each id stands for; empty for ids that the vocabulary leaves out."""
    vocab: dict[str, int] = contents["model"]["vocab"]
    literal = {token["content"]: token["id"] for token in contents["added_tokens"]}
    table = [b""] * (max([*vocab.values(), *literal.values()]) + 1)
    for token, i in vocab.items():
        if token in literal:
            continue
        try:
            table[i] = token_bytes(token)
        except UnicodeEncodeError:
            raise UserError(f"{source}: token {i} ({token!r}) is not in GPT-2's byte alphabet; {EXPECTED}") from None
    for token, i in literal.items():
        table[i] = token.encode()
    single = {token[0] for token in table if len(token) == 1}
    missing = [byte for byte in UTF8_BYTES if byte not in single]
    if missing:
        raise UserError(f"{source}: no token for the byte 0x{missing[0]:02x}, so not every text can be encoded")
    return table


def token_bytes(token: str) -> bytes:
    """The bytes that an entry of a byte-level vocab, or several joined, stand for; UnicodeEncodeError if it is none."""
    return codecs.charmap_encode(token, "strict", _CHARS_TO_BYTES)[0]


def _checked_vocab(vocab: Any, *, source: str | Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab or not all(type(i) is int and 0 <= i < MAX_ID for i in vocab.values()):
        raise UserError(f'{source}: no vocabulary in it; expected {{"token": id, ...}}, as in GPT-2\'s encoder.json')
    if len(set(vocab.values())) < len(vocab):
        raise UserError(f"{source}: two tokens have the same id; fetch or make the vocabulary anew")
    return vocab


def _joins(pair: Any, vocab: dict[str, int]) -> bool:
    return len(pair) == 2 and pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab


def _read_pair(vocab_path: Path, merges_path: Path) -> dict[str, Any]:
    contents = _read_json(vocab_path, expected="tokens and ids, as in GPT-2's encoder.json")
    vocab = _checked_vocab(contents, source=vocab_path)
    merges = []
    for number, line in enumerate(read_text(merges_path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if not _joins(pair, vocab):
            raise UserError(
                f"{merges_path}, line {number}: not two tokens of {vocab_path.name} that join to a third, as in "
                "GPT-2's vocab.bpe; fetch both files anew, from the same place"
            )
        merges.append(pair)
    return definition(vocab=vocab, merges=merges)


def _read_json(path: Path, *, expected: str) -> dict[str, Any]:
    try:
        contents = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); expected {expected}; is the file complete?"
        ) from None
    if not isinstance(contents, dict):
        raise UserError(f"{path}: not a JSON object; expected {expected}")
    return contents


def read_text(path: Path) -> str:
    """The whole of a file; UserError where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; is it the right file?") from None


def encodable(text: str) -> str:
    """Half of a surrogate pair (from a broken JSON escape or a command line) has no UTF-8: it becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def utf8(text: str) -> bytes:
    """The text as UTF-8, `encodable` or not."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return encodable(text).encode()


def split_at(text: str, names: Iterable[str]) -> list[str]:
    """The text in parts, the names being parts of their own, longer names first; no part is empty."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return [part for part in re.split(f"({pattern})", text) if part] if pattern else [text]
