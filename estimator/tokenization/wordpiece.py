"""WordPiece vocabularies: `vocab.txt`, as affjljoo3581/GPT2 reads it.

`<s>`, `</s>` and `<pad>` are ids 0, 1 and 2, and the words of the file follow. Text becomes words - lower case,
punctuation and Chinese characters apart - and each word its longest known beginnings, `##` marking those within a word.
Case, the amount of white space and unknown words are lost: decoded texts differ from the originals.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from estimator import storage
from estimator.errors import UserError
from estimator.tokenization import json_files, vocab_files
from estimator.tokenization.token_table import TokenTable

FILE = "vocab.txt"
START, END, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
WITHIN = "##"
LONGEST_WORD = 100
_CHINESE = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_PUNCTUATION = r"\p{P}!-/:-@\[-`{-~"
_WHITE_SPACE = "".join(f"\\x{{{i:x}}}" for i in range(0x3001) if chr(i).isspace())
# Python's lower case of a sigma at the end of a word; the tokenizers library looks at each character alone.
_FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\K\x{3a3}(?!\p{Case_Ignorable}*\p{Cased})"
# These follow the word before them without a blank.
_CLOSING = {".", "?", "!", ","}


class WordPiece(TokenTable):
    """A WordPiece vocabulary. See `Tokenizer` for what its methods promise; decoded text has blanks between words."""

    def __init__(self, text: str, *, source: str | Path):
        """text: of a vocab.txt, words with white space between. source: the name that errors give it."""
        self._file_words = text.split()
        words = [START, END, PAD, *self._file_words]
        self._ids = {word: i for i, word in enumerate(words)}  # of equal words the last one counts, as there
        if UNKNOWN not in self._ids:
            raise UserError(
                f"{source}: no {UNKNOWN} among its {len(self._file_words):,} words, so it is not a WordPiece "
                f"vocabulary of affjljoo3581/GPT2, with {START} {END} {PAD} {UNKNOWN}; BERT's and others are not read: "
                "give a folder with a vocabulary of another kind"
            )
        special = {word: self._ids[word] for word in (START, END, PAD, UNKNOWN)}
        super().__init__([_bytes(word) for word in words], special_tokens=special, end_names=[END], source=source)
        self._pieces = self._library()
        vocab_files.note_once(
            f"{source}: this vocabulary does not keep text exactly: all is lower case, one blank apart"
        )

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(["WordPiece", *self._file_words]).encode()).hexdigest()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        if not special:
            return self._pieces.encode(_prepared(text), add_special_tokens=False).ids
        parts = vocab_files.split_at(text, self.special_tokens)
        ids = ([self.special_tokens[p]] if p in self.special_tokens else self.encode(p) for p in parts)
        return list(itertools.chain.from_iterable(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._pieces.encode_batch_fast([_prepared(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return self.encode_batch([text.decode() for text in texts])

    def encode_pretokenized(self, line: str) -> list[int]:
        """The ids of words that have white space between them, each looked up as it is; `<unk>` for unknown ones."""
        ids, unknown = self._ids, self._ids[UNKNOWN]
        return [ids.get(word, unknown) for word in line.split()]

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in self.own_files().items():
            storage.write_bytes_atomic(folder / name, contents)

    def own_files(self) -> dict[str, bytes]:
        return {FILE: "".join(f"{word}\n" for word in self._file_words).encode()}

    def definition(self) -> dict[str, Any]:
        contents = json.loads(self._library().to_str())
        before = [_replace(f"[{_WHITE_SPACE}]+", " "), _replace(_FINAL_SIGMA, "\u03c2"), {"type": "Lowercase"}]
        contents["normalizer"]["normalizers"][:0] = before
        return contents | {
            "added_tokens": [vocab_files.added_token(name, i) for name, i in self.special_tokens.items()],
            "decoder": {"type": "WordPiece", "prefix": WITHIN, "cleanup": True},
        }

    def _library(self) -> tokenizers.Tokenizer:
        model = tokenizers.models.WordPiece(
            self._ids, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD, continuing_subword_prefix=WITHIN
        )
        library = tokenizers.Tokenizer(model)
        library.normalizer = tokenizers.normalizers.Sequence(
            [
                tokenizers.normalizers.Replace(tokenizers.Regex(r"[\p{C}\x{FFFD}]"), ""),
                tokenizers.normalizers.Replace(tokenizers.Regex("(?=[" + _CHINESE + "])|(?<=[" + _CHINESE + "])"), " "),
            ]
        )
        library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.WhitespaceSplit(),
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[{_PUNCTUATION}]"), behavior="isolated"),
            ]
        )
        return library


def _bytes(word: str) -> bytes:
    if word.startswith(WITHIN):
        return word.removeprefix(WITHIN).encode()
    return (word if word in _CLOSING or word in (START, END, PAD, UNKNOWN) else f" {word}").encode()


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _prepared(text: str) -> str:
    """One blank for each white space, and lower case, as Python understands both."""
    return " ".join(vocab_files.encodable(text).split()).lower()


def load(file: Path) -> WordPiece:
    """The vocabulary in a vocab.txt; UserError where it is none."""
    return WordPiece(json_files.read_text(file), source=file)
