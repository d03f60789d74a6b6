"""The file of a SentencePiece vocabulary, read by the library's protocol buffer and checked. See `sentencepiece.py`."""

import enum
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from estimator import invocation
from estimator.errors import UserError, import_failed

INSTALL = f"SentencePiece needs a library: {invocation.install('data')}"
SPACE = "\u2581"  # stands for a blank in pieces
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Type(enum.IntEnum):
    """The kind of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """An entry of the vocabulary."""

    text: str
    score: float
    type: Type


class Model(NamedTuple):
    """The contents of a file; the id of a piece is its position."""

    pieces: list[Piece]
    model_type: str
    byte_fallback: bool
    suffix: bool  # a blank belongs to the word before it
    charsmap: bytes  # the rules that rewrite characters, compiled; empty where there are none
    dummy_prefix: bool  # a blank is put before every text
    squeezes: bool  # runs of blanks become one, and those at both ends none
    escapes: bool  # blanks become SPACE

    @property
    def byte_ids(self) -> dict[int, int]:
        """The ids of the single bytes."""
        bytes_ = ((i, piece) for i, piece in enumerate(self.pieces) if piece.type is Type.BYTE)
        return {int(piece.text[3:5], 16): i for i, piece in bytes_}

    @property
    def faults(self) -> list[str]:
        """Why text may not come back from its ids; empty where it always does."""
        reasons = {
            "rewrites characters": bool(self.charsmap),
            "puts a blank before every text": self.dummy_prefix,
            "squeezes runs of blanks": self.squeezes,
            "has no bytes for unknown characters": not self.byte_fallback or len(self.byte_ids) < 256,
        }
        return [reason for reason, applies in reasons.items() if applies]


def parse(data: bytes, *, source: str | Path) -> Model:
    """The contents of a .model file; UserError, naming `source`, where it is none or the library is missing."""
    from google.protobuf.message import DecodeError

    protocol = _protocol(source)
    try:
        return _model(protocol.ModelProto.FromString(data))
    except (ValueError, DecodeError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f"{source}: not a SentencePiece model ({error}); fetch it again, or train one with "
            f"`{invocation.program('datasets/train_tokenizer.py')} --kind sentencepiece`"
        ) from None


def with_control_pieces(data: bytes, names: Sequence[str]) -> bytes:
    """The file with more control symbols, at ids after its last: of a repeated field, the parts of a file add up."""
    return data + _serialized([Piece(name, 0.0, Type.CONTROL) for name in names])


def without_control_pieces(model: Model) -> bytes:
    """A file of the same pieces and rules for software that would find control symbols in text: theirs have no text."""
    pieces = [
        piece._replace(text=f"\ue000{i}\ue000", type=Type.UNUSED) if piece.type is Type.CONTROL else piece
        for i, piece in enumerate(model.pieces)
    ]
    return _serialized(
        pieces,
        trainer_spec={
            "model_type": next(number for number, name in MODEL_TYPES.items() if name == model.model_type),
            "treat_whitespace_as_suffix": model.suffix,
            "byte_fallback": model.byte_fallback,
            "unk_piece": next(piece.text for piece in pieces if piece.type is Type.UNKNOWN),
        },
        normalizer_spec={
            "precompiled_charsmap": model.charsmap,
            "add_dummy_prefix": model.dummy_prefix,
            "remove_extra_whitespaces": model.squeezes,
            "escape_whitespaces": model.escapes,
        },
    )


def _protocol(source: str | Path) -> ModuleType:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise import_failed(error, f"{source}: {INSTALL}") from error
    return sentencepiece_model_pb2


def _serialized(pieces: Sequence[Piece], **specs: dict[str, Any]) -> bytes:
    entries = [{"piece": piece.text, "score": piece.score, "type": int(piece.type)} for piece in pieces]
    return _protocol("a SentencePiece model").ModelProto(pieces=entries, **specs).SerializeToString()


def _model(proto: Any) -> Model:
    pieces = [_piece(entry) for entry in proto.pieces]
    if not any(piece.type is Type.UNKNOWN for piece in pieces):
        raise ValueError("it has no piece for unknown text" if pieces else "it has no pieces")
    if len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("two pieces are equal")
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    return Model(
        pieces,
        model_type=MODEL_TYPES[trainer.model_type],
        byte_fallback=trainer.byte_fallback,
        suffix=trainer.treat_whitespace_as_suffix,
        charsmap=normalizer.precompiled_charsmap,
        dummy_prefix=normalizer.add_dummy_prefix,
        squeezes=normalizer.remove_extra_whitespaces,
        escapes=normalizer.escape_whitespaces,
    )


def _piece(entry: Any) -> Piece:
    if not entry.piece or isinstance(entry.piece, bytes):  # bytes: protobuf's answer where they are no UTF-8
        raise ValueError("a piece has no text")
    piece = Piece(entry.piece, entry.score, Type(entry.type))
    if piece.type is Type.BYTE and not _BYTE.fullmatch(piece.text):
        raise ValueError(f"the piece {piece.text!r} is no byte")
    return piece
