"""Writes TensorBoard event files: one protocol buffer per event in a TFRecord frame.

This is our own code because the packages that write events import PyTorch if it is installed, which delays every start
by seconds. Fields follow tensorflow/core/util/event.proto and framework/summary.proto.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from estimator.shards.framing import FOOTER, header, masked_crc32c

VERSION = b"brain.Event:2"
# Field numbers of these messages, and the encoding of a field's value.
_EVENT_TIME, _EVENT_STEP, _EVENT_VERSION, _EVENT_SUMMARY, _EVENT_SESSION = 1, 2, 3, 5, 7
_SUMMARY_VALUE, _VALUE_TAG, _VALUE_NUMBER, _SESSION_STATUS = 1, 1, 2, 1
_VALUE_TENSOR, _VALUE_METADATA, _METADATA_PLUGIN, _PLUGIN_NAME = 8, 9, 1, 1
_TENSOR_TYPE, _TENSOR_SHAPE, _TENSOR_STRING, _STRING_TYPE = 1, 2, 8, 7
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_STARTED = 1


class EventFile:
    """A new event file. first_step: TensorBoard discards this step and later ones from earlier files."""

    def __init__(self, folder: Path, *, first_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        self._append(first_step, time.time(), _bytes(_EVENT_VERSION, VERSION))
        self._append(first_step, time.time(), _bytes(_EVENT_SESSION, _varint_field(_SESSION_STATUS, _STARTED)))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float], *, time: float) -> None:
        """Writes {tag: value}. time: Unix seconds. The data is in the file when this returns."""
        summary = b"".join(
            _bytes(_SUMMARY_VALUE, _bytes(_VALUE_TAG, tag.encode()) + _key(_VALUE_NUMBER, _FOUR_BYTES) + _float(value))
            for tag, value in values.items()
        )
        self._append(step, time, _bytes(_EVENT_SUMMARY, summary))
        self._file.flush()

    def write_text(self, step: int, tag: str, text: str, *, time: float) -> None:
        """Writes a text, which the page reads as Markdown. time: Unix seconds."""
        tensor = _varint_field(_TENSOR_TYPE, _STRING_TYPE) + _bytes(_TENSOR_SHAPE, b"")
        value = _bytes(_VALUE_TAG, tag.encode()) + _bytes(
            _VALUE_TENSOR, tensor + _bytes(_TENSOR_STRING, text.encode(errors="replace"))
        )
        value += _bytes(_VALUE_METADATA, _bytes(_METADATA_PLUGIN, _bytes(_PLUGIN_NAME, b"text")))
        self._append(step, time, _bytes(_EVENT_SUMMARY, _bytes(_SUMMARY_VALUE, value)))
        self._file.flush()

    def _append(self, step: int, time: float, what: bytes) -> None:
        event = _key(_EVENT_TIME, _EIGHT_BYTES) + struct.pack("<d", time) + _varint_field(_EVENT_STEP, step) + what
        self._file.write(header(len(event)) + event + FOOTER.pack(masked_crc32c(event)))

    def close(self) -> None:
        self._file.close()


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, _VARINT) + _varint(number)


def _varint(number: int) -> bytes:
    """Encodes an unsigned integer as a protocol buffer varint."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _float(number: float) -> bytes:
    try:
        return struct.pack("<f", number)
    except OverflowError:  # beyond 3.4e38
        return struct.pack("<f", float("inf") if number > 0 else float("-inf"))
