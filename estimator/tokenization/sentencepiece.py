"""SentencePiece vocabularies, BPE or unigram, behind the interface of `estimator/tokenization/tokenizer.py`.

Those trained here keep text exactly: characters that they lack become bytes, and blanks, tabs and newlines stay as they
are. Foreign ones may change text, as they do in the library; a note says so when they are loaded. One with the control
symbol `<endofline>` (as in lopuhin/transformer-lm) encodes each line separately, and the symbol is the newline.
"""

import functools
import hashlib
import itertools
import json
import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estimator import storage
from estimator.errors import UserError, import_failed
from estimator.tokenization import gigatoken_backend, sentencepiece_json, sentencepiece_model, vocab_files
from estimator.tokenization.gigatoken_backend import EncodeBatch, Unsuitable
from estimator.tokenization.sentencepiece_model import INSTALL, SPACE, Type
from estimator.tokenization.token_table import TokenTable

FILE = "tokenizer.model"
END_OF_LINE = "<endofline>"
# What makes transformers encode as the library does. It has no class for a unigram vocabulary with bytes.
_TRANSFORMERS = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "legacy": False,
    "bos_token": None,
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
}
# Characters in a part of a long text, at least: the library's time grows faster than a part's length. Measured.
_PART = re.compile(r".{1024,}?\n|.+", re.DOTALL)


class SentencePiece(TokenTable):
    """A SentencePiece vocabulary. See `Tokenizer` for what its methods promise."""

    def __init__(self, data: bytes, *, source: str | Path):
        """data: of a .model file. source: the name that errors give it."""
        self._data = data
        self._model = sentencepiece_model.parse(data, source=source)
        self._processor = _processor(data, source=source)
        named = (Type.CONTROL, Type.UNKNOWN)
        special = {piece.text: i for i, piece in enumerate(self._model.pieces) if piece.type in named}
        self._end_of_line = special.pop(END_OF_LINE, None)
        table = [self._bytes(piece) for piece in self._model.pieces]
        super().__init__(table, special_tokens=special, end_names=vocab_files.END_OF_TEXT_NAMES, source=source)
        self._breaks = self._ids_of_breaks()
        self._break = re.compile(f"([{''.join(map(re.escape, self._breaks))}])") if self._breaks else None
        self._parts = self._may_be_cut_after_newlines()
        if self._model.faults:
            faults = ", ".join(self._model.faults)
            vocab_files.note_once(f"{source}: this vocabulary does not keep text exactly: it {faults}")

    @functools.cached_property
    def digest(self) -> str:
        model = self._model
        rules = repr((model.model_type, model.byte_fallback, model.suffix, *model[-3:]))
        texts = [rules.encode(), model.charsmap, *(piece.text.encode() for piece in model.pieces)]
        lengths = struct.pack(f"<{len(texts)}I", *map(len, texts))
        kinds = b"".join(struct.pack("<fB", piece.score, piece.type) for piece in model.pieces)
        return hashlib.sha256(b"SentencePiece\n" + lengths + b"".join(texts) + kinds).hexdigest()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        parts = vocab_files.split_at(text, self.special_tokens) if special else [text]
        plain = iter(self._encoded([p for p in parts if not special or p not in self.special_tokens], self._library))
        ids = ([self.special_tokens[p]] if special and p in self.special_tokens else next(plain) for p in parts)
        return [int(i) for some in ids for i in some]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._encoded(texts, self._fast)

    def encode_utf8(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return self.encode_batch([text.decode() for text in texts])

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = self.own_files()
        if not self._model.faults and self._model.model_type == "BPE" and self.end_of_text is not None:
            end = self._model.pieces[self.end_of_text].text
            files = {"tokenizer_config.json": json.dumps(_TRANSFORMERS | {"eos_token": end}, indent=1).encode()} | files
        for name, contents in files.items():
            storage.write_bytes_atomic(folder / name, contents)

    def own_files(self) -> dict[str, bytes]:
        return {FILE: self._data}

    @property
    def model(self) -> sentencepiece_model.Model:
        return self._model

    def definition(self) -> dict[str, Any]:
        faults = list(self._model.faults)
        if self._end_of_line is not None:
            faults.append(f"encodes each line alone, with {END_OF_LINE} for its end")
        if self._model.model_type not in ("BPE", "unigram") or self._model.suffix or not self._model.escapes:
            faults.append("is of a kind that is not trained here")
        if any(piece.type is Type.UNUSED for piece in self._model.pieces):
            faults.append("has unused pieces")
        if faults:
            raise UserError(
                f"{self._source}: other programs cannot give the ids of this SentencePiece vocabulary: it "
                f"{', '.join(faults)}; export_model.py --to hf --no_tokenizer exports the weights alone"
            )
        return sentencepiece_json.definition(self._model, special_tokens=self.special_tokens)

    def with_special_tokens(self, names: Sequence[str]) -> "SentencePiece":
        """See `estimator.tokenization.tokenizer.with_special_tokens`; the names are no special tokens yet."""
        known = {piece.text for piece in self._model.pieces}
        for name in names:
            if not name or name in known:
                raise UserError(
                    f"{self._source}: {name!r} cannot be a special token: empty, or an ordinary piece; rename it"
                )
        return SentencePiece(sentencepiece_model.with_control_pieces(self._data, names), source=self._source)

    def _encoded(self, texts: Sequence[str], encode: EncodeBatch) -> list[np.ndarray]:
        cut = [self._cut(vocab_files.encodable(text)) for text in texts]
        encoded = iter(encode([part for parts in cut for part in parts if part not in self._breaks]))
        ids = ([self._breaks[part] if part in self._breaks else next(encoded) for part in parts] for parts in cut)
        return [np.concatenate([np.empty(0, np.int32), *of_text]) for of_text in ids]

    def _library(self, parts: Sequence[str]) -> list[np.ndarray]:
        encoded = self._processor.encode(list(parts), num_threads=os.cpu_count() or 1)
        return [np.array(ids, np.int32) for ids in encoded]

    @functools.cached_property
    def _fast(self) -> EncodeBatch:
        """By gigatoken if it reads this kind and gives the same ids, also for each piece next to itself and others."""
        if self._model.faults or self._model.model_type != "BPE":
            return self._library
        pieces = [piece.text.replace(SPACE, " ") for piece in self._model.pieces]
        probe = [vocab_files.PROBE, *(a + a + a + b for a, b in itertools.pairwise(["", *pieces, ""]))]
        probe = [text for text in probe if not any(sign in text for sign in self._breaks)]
        data = sentencepiece_model.without_control_pieces(self._model)
        try:
            return gigatoken_backend.encoder(
                lambda gigatoken: gigatoken.Tokenizer.from_sentencepiece(data),
                probe=probe,
                expected=[ids.tolist() for ids in self._library(probe)],
            )
        except Unsuitable as reason:
            print(f"{self._source}: {reason}; encoding more slowly, with sentencepiece", file=sys.stderr)
        return self._library

    def _bytes(self, piece: sentencepiece_model.Piece) -> bytes:
        match piece.type:
            case Type.BYTE:
                return bytes([int(piece.text[3:5], 16)])
            case Type.UNUSED:
                return b""
            case Type.CONTROL | Type.UNKNOWN:
                return b"\n" if piece.text == END_OF_LINE else piece.text.encode()
        return (piece.text.replace(SPACE, " ") if self._model.escapes else piece.text).encode()

    def _joined(self, parts: list[bytes]) -> bytes:
        joined = super()._joined(parts)
        # The blank that was put before each line; that before a text stays, since it is needed to continue a prompt.
        return joined.replace(b"\n ", b"\n") if self._end_of_line is not None and self._model.dummy_prefix else joined

    def _ids_of_breaks(self) -> dict[str, np.ndarray]:
        """The characters that the library is not shown, and what they become."""
        breaks = {} if self._end_of_line is None else {"\n": [self._end_of_line]}
        bytes_ = self._model.byte_ids
        if not self._model.faults and self._model.escapes:
            # Text that has the sign for a blank would come back with a blank.
            breaks[SPACE] = [bytes_[byte] for byte in SPACE.encode()]
            if SPACE not in {piece.text for piece in self._model.pieces}:
                breaks[" "] = [bytes_[ord(" ")]]  # as no text had a blank when this was trained
        return {sign: np.array(ids, np.int32) for sign, ids in breaks.items()}

    def _may_be_cut_after_newlines(self) -> bool:
        """Whether the ids of a text are those of its lines: nothing is put before them, no piece goes beyond one."""
        model = self._model
        changes = model.charsmap or model.dummy_prefix or model.squeezes
        return not changes and not any("\n" in piece.text[:-1] for piece in model.pieces)

    def _cut(self, text: str) -> list[str]:
        """The text in parts whose ids follow each other; a character of `_breaks` is a part of its own."""
        parts = [part for part in self._break.split(text) if part] if self._break else [text]
        if self._parts:
            parts = [short for part in parts for short in (_PART.findall(part) if len(part) > 1024 else [part])]
        return parts


def load(file: Path) -> SentencePiece:
    """The vocabulary in a .model file; UserError where it is none."""
    return SentencePiece(file.read_bytes(), source=file)


def _processor(data: bytes, *, source: str | Path) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise import_failed(error, f"{source}: {INSTALL}") from error
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise UserError(
            f"{source}: the library does not accept this SentencePiece model ({error}); fetch it again"
        ) from None
