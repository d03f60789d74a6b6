"""The file of a SentencePiece vocabulary, a protocol buffer, read and checked without the library.

The library is written in C++ and does not say enough about what it has read: types of pieces, and which changes it
makes to text. Field numbers are those of sentencepiece_model.proto. Encodes nothing: see
`text/sentencepiece_vocabulary.py`.
"""

import enum
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runtime.errors import UserError

SPACE = "\u2581"  # what stands for a blank in pieces
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_NUMBERS = {name: number for number, name in MODEL_TYPES.items()}
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Type(enum.IntEnum):
    """What a piece is."""

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
    """What a file says; the id of a piece is its place."""

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
    """The contents of a .model file; UserError, naming `source`, where they are none."""
    try:
        return _model(data)
    except (ValueError, IndexError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f"{source}: not a SentencePiece model ({error}); fetch it anew, or train one with "
            "`python3 datasets/train_tokenizer.py --kind sentencepiece`"
        ) from None


def with_control_pieces(data: bytes, names: Sequence[str]) -> bytes:
    """The file with more control symbols, at ids after its last: of a repeated field, the parts of a file add up."""
    return data + b"".join(_written(Piece(name, 0.0, Type.CONTROL)) for name in names)


def without_control_pieces(model: Model) -> bytes:
    """A file of the same pieces and rules for software that would find control symbols in text: theirs have no text."""
    pieces = [
        piece._replace(text=f"\ue000{i}\ue000", type=Type.UNUSED) if piece.type is Type.CONTROL else piece
        for i, piece in enumerate(model.pieces)
    ]
    trainer = [(3, _NUMBERS[model.model_type]), (24, int(model.suffix)), (35, int(model.byte_fallback))]
    normalizer = [(3, int(model.dummy_prefix)), (4, int(model.squeezes)), (5, int(model.escapes))]
    unknown = next(piece.text for piece in pieces if piece.type is Type.UNKNOWN).encode()
    parts = [_written(piece) for piece in pieces]
    parts.append(_field(2, b"".join(_number_field(*field) for field in trainer) + _field(45, unknown)))
    parts.append(_field(3, _field(2, model.charsmap) + b"".join(_number_field(*field) for field in normalizer)))
    return b"".join(parts)


def _model(data: bytes) -> Model:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(data):
        if field == 1:
            pieces.append(_piece(_message(value)))
        elif field == 2:
            trainer |= _message(value)
        elif field == 3:
            normalizer |= _message(value)
    if not any(piece.type is Type.UNKNOWN for piece in pieces):
        raise ValueError("it has no piece for what is unknown" if pieces else "it has no pieces")
    if len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("two pieces are equal")
    charsmap = normalizer.get(2, b"")
    if not isinstance(charsmap, bytes):
        raise ValueError("the rules for characters are no bytes")
    return Model(
        pieces,
        model_type=MODEL_TYPES.get(_number(trainer, 3, 1), "unknown"),
        byte_fallback=bool(_number(trainer, 35, 0)),
        suffix=bool(_number(trainer, 24, 0)),
        charsmap=charsmap,
        dummy_prefix=bool(_number(normalizer, 3, 1)),
        squeezes=bool(_number(normalizer, 4, 1)),
        escapes=bool(_number(normalizer, 5, 1)),
    )


def _piece(fields: dict[int, int | bytes]) -> Piece:
    text, score = fields.get(1, b""), fields.get(2, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not text:
        raise ValueError("a piece has no text")
    piece = Piece(text.decode(), struct.unpack("<f", score)[0], Type(_number(fields, 3, Type.NORMAL)))
    if piece.type is Type.BYTE and not _BYTE.fullmatch(piece.text):
        raise ValueError(f"the piece {piece.text!r} is no byte")
    return piece


def _message(value: int | bytes) -> dict[int, int | bytes]:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message should be")
    return dict(_fields(value))


def _number(fields: dict[int, int | bytes], field: int, default: int) -> int:
    value = fields.get(field, default)
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message by their numbers: integers, or the bytes of everything else."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        match key & 7:
            case 0:
                value, position = _read_varint(data, position)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, position = _read_varint(data, position)
            case 5:
                size = 4
            case other:
                raise ValueError(f"no field begins with wire type {other}, at byte {position}")
        if position + size > len(data):
            raise ValueError(f"it ends within a field, at byte {position}")
        yield key >> 3, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise ValueError(f"a number of more than ten bytes, at byte {position}")


def _written(piece: Piece) -> bytes:
    score = _varint(2 << 3 | 5) + struct.pack("<f", piece.score)
    return _field(1, _field(1, piece.text.encode()) + score + _number_field(3, piece.type))


def _field(number: int, contents: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(contents)) + contents


def _number_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
