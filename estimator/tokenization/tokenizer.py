"""Tokenizers: text to token ids and back, behind one interface.

A vocabulary is a folder: `tokenizer.json` (any byte-level BPE), or GPT-2's pair `encoder.json` + `vocab.bpe` (also
named `vocab.json` + `merges.txt`, with a prefix or none), or a SentencePiece `.model`, or WordPiece's `vocab.txt`.
However they are stored, equal vocabularies behave equally and have equal digests.

Text is data: `<|endoftext|>` written inside a document is encoded as those thirteen characters, never as the special
token, unless the caller asks for it.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers

from estimator import storage
from estimator.errors import UserError
from estimator.tokenization import gigatoken_backend, sentencepiece, special_files, vocab_files, wordpiece
from estimator.tokenization.gigatoken_backend import EncodeUtf8, Unsuitable
from estimator.tokenization.token_table import TokenTable
from estimator.tokenization.vocab_files import PROBE, encodable, utf8


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
        """int32 [n_vocab]: bytes of text of each id, 0 for special tokens."""

    def save(self, folder: str | Path) -> None:
        """Writes the vocabulary, as the file of its kind that other software reads too, for `load`."""

    def own_files(self) -> dict[str, bytes]:
        """The file of its kind by its name, which `load` prefers to a tokenizer.json next to it.

        None for a byte-level BPE, whose file that is.
        """

    def definition(self) -> dict[str, Any]:
        """A tokenizer.json with which the tokenizers library gives these ids, special tokens read as such.

        Raises UserError where there is none.
        """


def digest_in(folder: str | Path) -> str | None:
    """The digest of the vocabulary in a folder; None where there is none that can be read."""
    with contextlib.suppress(UserError, OSError):
        return load(folder).digest
    return None


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or the one that a file of it belongs to.

    Raises UserError when there is none, there are several, or it cannot be read.
    """
    path = Path(path)
    match vocab_files.kind(path):
        case vocab_files.SENTENCEPIECE, file:
            return _with_added_pieces(sentencepiece.load(file), file.parent)
        case vocab_files.WORDPIECE, file:
            return wordpiece.load(file)
    file, contents, end = vocab_files.read(path)
    return ByteLevelBPE(contents, source=file, end=end)


def _with_added_pieces(model: sentencepiece.SentencePiece, folder: Path) -> Tokenizer:
    """A SentencePiece model with the tokens that transformers added after its pieces, as special tokens."""
    added = sorted((number, name) for name, number in special_files.read(folder).added.items())
    added = [(number, name) for number, name in added if number >= model.n_vocab]
    if [number for number, _ in added] == list(range(model.n_vocab, model.n_vocab + len(added))):
        return with_special_tokens(model, [name for _, name in added])
    print(f"{folder}: added tokens are left out: their ids, from {added[0][0]}, are not the next ones", file=sys.stderr)
    return model


def byte_level_tokenizer() -> Tokenizer:
    """The vocabulary without merges: the 256 bytes, and `<|endoftext|>` as id 256."""
    return ByteLevelBPE(vocab_files.definition(vocab=vocab_files.BYTE_VOCAB, merges=[]), source="the byte vocabulary")


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The vocabulary with more special tokens, at new ids after its last, in the order given; save() keeps them.

    Names that are special tokens already keep their ids. Raises UserError for a name that is an ordinary token or
    empty, and for a kind of vocabulary that takes none.
    """
    missing = [name for name in dict.fromkeys(names) if name not in tokenizer.special_tokens]
    if not missing:
        return tokenizer
    if not isinstance(tokenizer, ByteLevelBPE | sentencepiece.SentencePiece):
        raise UserError(
            f"special tokens ({', '.join(missing)}) cannot be added to a WordPiece vocabulary, which has but four; "
            "use a tokenizer.json or a SentencePiece .model"
        )
    return tokenizer.with_special_tokens(missing)


class ByteLevelBPE(TokenTable):
    """A byte-level BPE. See `Tokenizer` for what its methods promise."""

    def __init__(self, contents: dict[str, Any], *, source: str | Path, end: str | None = None):
        """contents: of a tokenizer.json, as `vocab_files.checked` gives them. source: the name that errors give it.

        end: the special token that ends documents; None takes the first of `END_OF_TEXT_NAMES` in the vocabulary.
        """
        self._contents = contents
        self._end = end
        special = {token["content"]: token["id"] for token in contents["added_tokens"] if token["special"]}
        table = vocab_files.token_table(contents, source=source)
        ends = [*([end] if end else []), *vocab_files.END_OF_TEXT_NAMES]
        super().__init__(table, special_tokens=special, end_names=ends, source=source)
        self._plain = self._reference(self._plain_contents)

    @functools.cached_property
    def digest(self) -> str:
        merged = list(itertools.chain.from_iterable(self._contents["model"]["merges"]))
        parts = [*self._table, b"merges", vocab_files.token_bytes("".join(merged))]
        lengths = np.array([*map(len, parts[:-1]), *map(len, merged)], "<u4").tobytes()
        usual = next((name for name in vocab_files.END_OF_TEXT_NAMES if name in self.special_tokens), None)
        if self._end and usual and self.special_tokens[self._end] != self.special_tokens[usual]:
            parts.append(f"ends with {self._end}".encode())  # shards made with the usual end have its id between texts
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
        definition = vocab_files.decoding_added_tokens(self._contents)
        for name, contents in (("tokenizer_config.json", config), ("tokenizer.json", definition)):
            storage.write_bytes_atomic(folder / name, json.dumps(contents, ensure_ascii=False, indent=1).encode())

    def own_files(self) -> dict[str, bytes]:
        return {}

    def definition(self) -> dict[str, Any]:
        # A post-processor would end each prompt with end-of-text (BART's does).
        contents = self._contents | dict.fromkeys(("truncation", "padding", "post_processor"))
        return vocab_files.decoding_added_tokens(contents)

    def with_special_tokens(self, names: Sequence[str]) -> "ByteLevelBPE":
        """See the function of this name; the names are no special tokens yet."""
        contents = vocab_files.with_special_tokens(self._contents, names, first=self.n_vocab, source=self._source)
        return ByteLevelBPE(contents, source=self._source, end=self._end)

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
        return self._reference(json.dumps(self.definition()))

    def _reference(self, contents: str) -> tokenizers.Tokenizer:
        try:
            return tokenizers.Tokenizer.from_str(contents)
        except Exception as error:  # the library raises nothing narrower for a definition that it does not accept
            raise UserError(f"{self._source}: {error}; {vocab_files.EXPECTED}") from None

    @functools.cached_property
    def _encode_utf8(self) -> EncodeUtf8:
        """By gigatoken if it gives the same ids as the reference on awkward text, else by the reference."""
        probe = PROBE + "-".join(token["content"] for token in self._contents["added_tokens"])
        try:
            if not _cuts_words(self._contents.get("pre_tokenizer")):
                raise Unsuitable("gigatoken always cuts text into words, which this vocabulary does not")
            flags = ("single_word", "lstrip", "rstrip")
            ordinary = [token for token in self._contents["added_tokens"] if not token["special"]]
            if any(token.get(flag) for token in ordinary for flag in flags):
                raise Unsuitable(f"gigatoken ignores {', '.join(flags)} of added tokens")
            return gigatoken_backend.encoder(
                lambda gigatoken: gigatoken.Tokenizer.from_json(self._plain_contents),
                probe=[probe],
                expected=[self.encode(probe)],
                newer=gigatoken_backend.newer_tokens(self._table),
                reference=functools.partial(_reference_batch, self._plain),
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
