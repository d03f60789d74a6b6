"""The bytes of one document: a tf.train.Example with features `hash` (bytes) and `text` (int64 ids), without protobuf.

Token ids are varints, of which `framing.py` decodes the usual ones.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from estimator.shards.framing import FAST_LIMIT


class BadExample(ValueError):
    """The bytes are no tf.train.Example of a document; the message says in what way."""


class Parsed(NamedTuple):
    """Positions of a document's parts in the bytes of its tf.train.Example."""

    name: bytes
    text: list[tuple[int, int]]  # (start, stop) of the runs of varints, in order


def example_head(name: bytes, size: int) -> bytes:
    """The bytes before the ids in the tf.train.Example of a document; `size` bytes of varints follow.

    The features are in the order of their names, as protobuf's deterministic serialization has them.
    """
    head = _name_head(len(name)) + name + _text_head(size)
    return b"\n" + _length(len(head) + size) + head


@functools.lru_cache(maxsize=1 << 14)
def _text_head(size: int) -> bytes:
    """The bytes between the name and `size` bytes of ids; cached, because sizes recur."""
    # From the inside: list of integers, feature, value of the entry, each a tag and a length before what it holds.
    values = b"\n" + _length(size) if size else b""
    feature = b"\x1a" + _length(len(values) + size) + values
    entry = b"\n\x04text\x12" + _length(len(feature) + size) + feature
    return b"\n" + _length(len(entry) + size) + entry


@functools.lru_cache(maxsize=1 << 10)
def _name_head(size: int) -> bytes:
    """The bytes before a name of some length, without the header of the example."""
    head = b""
    for tag in (b"\n", b"\n", b"\x12"):  # the bytes, their list, the value of the entry
        head = tag + _length(len(head) + size) + head
    head = b"\n\x04hash" + head
    return b"\n" + _length(len(head) + size) + head


def _length(number: int) -> bytes:
    """A number, which is 0 or more, as a varint."""
    if number < len(_LENGTHS):
        return _LENGTHS[number]
    return bytes([number & 0x7F | 0x80]) + _length(number >> 7)


# Of lengths that are frequent, looked up.
_LENGTHS = [bytes([number]) for number in range(128)]
_LENGTHS += [bytes([number & 0x7F | 0x80, number >> 7]) for number in range(128, 1 << 14)]


def encode_varints(values: np.ndarray, lengths: Sequence[int] | np.ndarray) -> list[bytes]:
    """Encodes integers in 0 .. 2**31 - 1 as varints, in consecutive lists of given lengths; faster for many lists."""
    known = int(values.max(initial=0)) < len(_WORDS)
    last = np.cumsum(lengths, dtype=np.int64)  # values up to the end of each list
    parts: list[np.ndarray] = []
    ends: list[int] = []
    size = 0
    for first in range(0, len(values) or 1, _TOGETHER):
        some = values[first : first + _TOGETHER]
        words = _WORDS.take(some) if known else _words(some)
        spread = words.view(np.uint8)
        used = spread != 0
        used[:: words.itemsize] = True  # the number 0 is a byte 0
        places = used.nonzero()[0]
        parts.append(spread.take(places))
        of_these = last[len(ends) : np.searchsorted(last, first + len(some), side="right")] - first
        ends += (size + np.searchsorted(places, words.itemsize * of_these)).tolist()
        size += len(places)
    encoded = b"".join([part.data for part in parts])
    return [encoded[start:stop] for start, stop in itertools.pairwise([0, *ends])]


def largest(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [lists]: the largest value of each of consecutive lists of given lengths, -1 of one without any."""
    result = np.full(len(lengths), -1, np.int64)
    there = lengths > 0  # numpy gives an empty list the first value of the next one
    starts = (lengths.cumsum() - lengths)[there]
    if len(starts):
        result[there] = np.maximum.reduceat(values, starts)
    return result


# Ids encoded at a time, so that intermediate arrays stay in the processor's cache.
_TOGETHER = 1 << 14


def _words(values: np.ndarray) -> np.ndarray:
    """uint32 or uint64 [values]: the bytes of each varint, and zeros after it."""
    rest = values.astype("<u4" if values.max(initial=0) < FAST_LIMIT else "<u8")
    words = rest & 0x7F
    for place in range(1, 5):
        rest >>= 7
        if not rest.any():
            break
        words |= (rest & 0x7F) << 8 * place
        words |= np.minimum(rest, 1) << 8 * place - 1  # the byte before says that more follows
    return words


# Of the ids of most vocabularies, looked up.
_WORDS = _words(np.arange(1 << 17))


def decode_long_varints(data: bytes) -> np.ndarray:
    """The integers in `data` as int64, for varints of any length; raises BadExample when there is no such number."""
    view = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(view < 0x80)
    starts = np.concatenate([[0], ends + 1])[:-1]
    lengths = ends + 1 - starts
    if lengths.max(initial=0) > 10:
        raise BadExample("its list of ids holds a number of more than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for place in range(lengths.max(initial=0)):
        there = lengths > place
        values[there] |= (view[starts[there] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)


def all_tokens(buffer: bytes, text: list[tuple[int, int]]) -> np.ndarray:
    """Every id of a document as int64, packed or not, however long its varints. Raises BadExample."""
    return decode_long_varints(b"".join(buffer[start:stop] for start, stop in text))


def parse_example(data: bytes, start: int, stop: int) -> Parsed:
    """Finds the parts of the document data[start:stop]; features in any order, others ignored. Raises BadExample.

    Four bytes must follow `stop`, as they do in a record.
    """
    return _parse_usual(data, start, stop) or _parse_any(data, start, stop)


def _parse_usual(data: bytes, start: int, stop: int) -> Parsed | None:
    """A document of just the two features with a packed list each, as nearly all are: several times faster."""
    features = {}
    place, end = _enter(data, start, 0x0A)
    if end != stop:
        return None
    while place < stop:
        entry, entry_end = _enter(data, place, 0x0A)
        key = data[entry : entry + 6]
        feature, feature_end = _enter(data, entry + 6, 0x12)
        values, values_end = _enter(data, feature, 0x1A if key == b"\n\x04text" else 0x0A)
        value, end = _enter(data, values, 0x0A)
        if not stop >= entry_end == feature_end == values_end == end > value:
            return None
        features[key] = (value, end)
        place = end
    if features.keys() != {b"\n\x04hash", b"\n\x04text"} or data[features[b"\n\x04text"][1] - 1] >= 0x80:
        return None
    name, name_end = features[b"\n\x04hash"]
    return Parsed(data[name:name_end], [features[b"\n\x04text"]])


def _enter(data: bytes, place: int, tag: int) -> tuple[int, int]:
    """(start, stop) of the contents of a field with this tag and of less than 2 MiB; (0, -1) where there is none."""
    start = place + 2
    if start + 2 > len(data) or data[place] != tag:
        return 0, -1
    size = data[place + 1]
    if size >= 0x80:
        size = size & 0x7F | data[start] << 7
        start += 1
        if size >= 0x4000:
            size = size & 0x3FFF | data[start] << 14
            start += 1
            if size >= 0x200000:
                return 0, -1
    return start, start + size


def _parse_any(data: bytes, start: int, stop: int) -> Parsed:
    features: dict[bytes, tuple[int, int]] = {}
    for _, wire, features_start, features_stop in _fields(data, start, stop, wanted=1):
        _expect(wire == 2)
        for _, entry_wire, entry_start, entry_stop in _fields(data, features_start, features_stop, wanted=1):
            _expect(entry_wire == 2)
            key, value = b"", (entry_stop, entry_stop)
            for number, _, field_start, field_stop in _fields(data, entry_start, entry_stop):
                if number == 1:
                    key = data[field_start:field_stop]
                elif number == 2:
                    value = (field_start, field_stop)
            features[key] = value
    if b"text" not in features:
        names = ", ".join(sorted(key.decode("ascii", "replace") for key in features)) or "none"
        raise BadExample(f"it has no feature 'text' with the ids of a document (features found: {names})")
    return Parsed(_name(data, *features.get(b"hash", (0, 0))), _text(data, *features[b"text"]))


def _name(data: bytes, start: int, stop: int) -> bytes:
    for _, _, list_start, list_stop in _fields(data, start, stop, wanted=1):
        for _, _, first, last in _fields(data, list_start, list_stop, wanted=1):
            return data[first:last]
    return b""


def _text(data: bytes, start: int, stop: int) -> list[tuple[int, int]]:
    runs = []
    for number, wire, list_start, list_stop in _fields(data, start, stop):
        if number != 3 or wire != 2:
            raise BadExample("its feature 'text' is not a list of integers (int64_list)")
        for _, value_wire, first, last in _fields(data, list_start, list_stop, wanted=1):
            _expect(value_wire in (0, 2))  # one number, or many packed
            if first < last:
                if data[last - 1] >= 0x80:
                    raise BadExample("its list of ids ends in the middle of a number")
                runs.append((first, last))
    return runs


def _fields(data: bytes, start: int, stop: int, *, wanted: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, start, stop) of the fields of the message in data[start:stop]."""
    place = start
    while place < stop:
        tag, place = _varint(data, place, stop)
        number, wire = tag >> 3, tag & 7
        first = place
        if wire == 0:
            _, place = _varint(data, place, stop)
        elif wire == 2:
            length, first = _varint(data, place, stop)
            place = first + length
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        _expect(wire in (0, 1, 2, 5) and number > 0 and place <= stop)
        if wanted is None or number == wanted:
            yield number, wire, first, place


def _varint(data: bytes, place: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        _expect(place < stop and shift < 70)
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7


def _expect(condition: bool) -> None:
    if not condition:
        raise BadExample("it is not a tf.train.Example")
