"""Tokenizers: text to token ids and back, behind one interface.

A vocabulary is a folder: `tokenizer.json` (any byte-level BPE), or GPT-2's pair `encoder.json` + `vocab.bpe` (also
named `vocab.json` + `merges.txt`), or a SentencePiece `.model`, or WordPiece's `vocab.txt`. However they are stored,
equal vocabularies behave equally and have equal digests.

Text is data: `<|endoftext|>` written inside a document is encoded as those thirteen characters, never as the special
token, unless the caller asks for it.
"""

import functools
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers

from runtime.errors import UserError
from text import fast_encoding, sentencepiece_vocabulary, vocabulary, wordpiece
from text.fast_encoding import EncodeUtf8, Unsuitable
from text.token_table import TokenTable
from text.vocabulary import PROBE, encodable, utf8


class Tokenizer(Protocol):
    """What every kind of vocabulary offers."""

    n_vocab: int
    """One more than the largest id."""
    end_of_text: int | None
    """The id that ends a document, or None where the vocabulary has none."""
    special_tokens: dict[str, int]
    """The tokens that are no text, by their names: end-of-text, the roles of a chat, ..."""

    @property
    def digest(self) -> str:
        """sha256 in hex of all that decides ids and bytes: equal for equal vocabularies, however they are stored."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text; `special` reads special tokens written in it as such."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An int32 array a text, special tokens as plain text: the fast path, on all cores."""

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """The same of texts as UTF-8 (`vocabulary.utf8`), which the fast path reads as it is."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are no UTF-8, and ids that the vocabulary lacks, become U+FFFD."""

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The exact bytes of some ids; a special token gives its name. UserError for ids that the vocabulary lacks."""

    def token_bytes(self) -> np.ndarray:
        """int32 [n_vocab]: how many bytes of text an id stands for, 0 for special tokens."""

    def save(self, folder: str | Path) -> None:
        """Writes the vocabulary, as the file of its kind that other software reads too, for `load`."""


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or the one that a file of it belongs to.

    Raises UserError when there is none, there are several, or it cannot be read.
    """
    path = Path(path)
    match vocabulary.kind(path):
        case vocabulary.SENTENCEPIECE, file:
            return sentencepiece_vocabulary.load(file)
        case vocabulary.WORDPIECE, file:
            return wordpiece.load(file)
    file, contents = vocabulary.read(path)
    return ByteLevelBPE(contents, source=file)


def byte_level_tokenizer() -> Tokenizer:
    """The vocabulary without merges: the 256 bytes, and `<|endoftext|>` as id 256."""
    return ByteLevelBPE(vocabulary.definition(vocab=vocabulary.BYTE_VOCAB, merges=[]), source="the byte vocabulary")


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The vocabulary with more special tokens, at new ids after its last, in the order given; save() keeps them.

    Names that are special tokens already keep their ids. Raises UserError for a name that is an ordinary token or
    empty, and for a kind of vocabulary that takes none.
    """
    missing = [name for name in dict.fromkeys(names) if name not in tokenizer.special_tokens]
    if not missing:
        return tokenizer
    if not isinstance(tokenizer, ByteLevelBPE | sentencepiece_vocabulary.SentencePiece):
        raise UserError(
            f"special tokens ({', '.join(missing)}) cannot be added to a WordPiece vocabulary, which has but four; "
            "use a tokenizer.json or a SentencePiece .model"
        )
    return tokenizer.with_special_tokens(missing)


class ByteLevelBPE(TokenTable):
    """A byte-level BPE. See `Tokenizer` for what its methods promise."""

    def __init__(self, contents: dict[str, Any], *, source: str | Path):
        """contents: of a tokenizer.json, as `vocabulary.checked` gives them. source: the name that errors give it."""
        self._contents = contents
        special = {token["content"]: token["id"] for token in contents["added_tokens"] if token["special"]}
        table = vocabulary.token_table(contents, source=source)
        super().__init__(table, special_tokens=special, end_names=vocabulary.END_OF_TEXT_NAMES, source=source)
        self._plain = self._reference(self._plain_contents)

    @functools.cached_property
    def digest(self) -> str:
        merged = list(itertools.chain.from_iterable(self._contents["model"]["merges"]))
        parts = [*self._table, b"merges", vocabulary.token_bytes("".join(merged))]
        lengths = np.array([*map(len, parts[:-1]), *map(len, merged)], "<u4").tobytes()
        return hashlib.sha256(b"byte-level BPE\n" + lengths + b"".join(parts)).hexdigest()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        reader = self._reading_specials if special else self._plain
        return reader.encode(encodable(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self.encode_utf8([utf8(text) for text in texts])

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return self._encode_utf8(texts)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        end = {} if self.end_of_text is None else {"eos_token": self._table[self.end_of_text].decode()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **end}
        for name, contents in (("tokenizer_config.json", config), ("tokenizer.json", self._contents)):
            temporary = folder / f"{name}.tmp"
            temporary.write_text(json.dumps(contents, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(temporary, folder / name)

    def with_special_tokens(self, names: Sequence[str]) -> "ByteLevelBPE":
        """See the function of this name; the names are no special tokens yet."""
        contents = vocabulary.with_special_tokens(self._contents, names, first=self.n_vocab, source=self._source)
        return ByteLevelBPE(contents, source=self._source)

    @functools.cached_property
    def _plain_contents(self) -> str:
        """The definition for untrusted text: special tokens are not looked for, and nothing is added or cut off."""
        model = self._contents["model"]
        if model.get("ignore_merges"):  # then a word that is in the vocab is taken whole, special or not
            model = model | {"vocab": {k: v for k, v in model["vocab"].items() if k not in self.special_tokens}}
        ordinary = [token for token in self._contents["added_tokens"] if not token["special"]]
        nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
        return json.dumps(self._contents | nothing | {"added_tokens": ordinary, "model": model})

    @functools.cached_property
    def _reading_specials(self) -> tokenizers.Tokenizer:
        return self._reference(json.dumps(self._contents | dict.fromkeys(("truncation", "padding"))))

    def _reference(self, contents: str) -> tokenizers.Tokenizer:
        try:
            return tokenizers.Tokenizer.from_str(contents)
        except Exception as error:  # the library raises nothing narrower for a definition that it does not accept
            raise UserError(f"{self._source}: {error}; {vocabulary.EXPECTED}") from None

    @functools.cached_property
    def _encode_utf8(self) -> EncodeUtf8:
        """By gigatoken if it gives the same ids as the reference on awkward text, else by the reference."""
        probe = PROBE + "-".join(token["content"] for token in self._contents["added_tokens"])
        try:
            if not _cuts_words(self._contents.get("pre_tokenizer")):
                raise Unsuitable("gigatoken always cuts text into words, which this vocabulary does not")
            return fast_encoding.encoder(
                lambda gigatoken: gigatoken.Tokenizer.from_json(self._plain_contents),
                probe=[probe],
                expected=[self.encode(probe)],
            )
        except Unsuitable as reason:
            print(f"{self._source}: {reason}; encoding more slowly, with the tokenizers library", file=sys.stderr)
        return functools.partial(_reference_batch, self._plain)


def _cuts_words(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether text is cut by a pattern before merging, by ByteLevel's own or by another."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    return any(step.get("use_regex", True) if step.get("type") == "ByteLevel" else "type" in step for step in steps)


def _reference_batch(reference: tokenizers.Tokenizer, texts: Sequence[bytes]) -> list[np.ndarray]:
    encodings = reference.encode_batch_fast([text.decode() for text in texts], add_special_tokens=False)
    return [np.array(encoding.ids, np.int32) for encoding in encodings]
