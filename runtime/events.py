"""Curves that TensorBoard shows while a run goes on: a file of events, each a protocol buffer in a TFRecord frame.

Written here, because the packages that write them import PyTorch where it is installed, which takes seconds at the
start of every run. Fields are those of tensorflow/core/util/event.proto and framework/summary.proto.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from runtime.record import FOOTER, header, masked_crc32c

VERSION = b"brain.Event:2"
# Numbers of fields in these messages, and how the value of one is encoded.
_EVENT_TIME, _EVENT_STEP, _EVENT_VERSION, _EVENT_SUMMARY, _EVENT_SESSION = 1, 2, 3, 5, 7
_SUMMARY_VALUE, _VALUE_TAG, _VALUE_NUMBER, _SESSION_STATUS = 1, 1, 2, 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_STARTED = 1


class EventFile:
    """A new file of events in a folder. first_step: what files of before tell of this step and later ones is void."""

    def __init__(self, folder: Path, *, first_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        self._append(first_step, time.time(), _bytes(_EVENT_VERSION, VERSION))
        self._append(first_step, time.time(), _bytes(_EVENT_SESSION, _varint_field(_SESSION_STATUS, _STARTED)))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float], *, time: float) -> None:
        """Numbers by their tags. time: Unix seconds. They are in the file when this returns."""
        summary = b"".join(
            _bytes(_SUMMARY_VALUE, _bytes(_VALUE_TAG, tag.encode()) + _key(_VALUE_NUMBER, _FOUR_BYTES) + _float(value))
            for tag, value in values.items()
        )
        self._append(step, time, _bytes(_EVENT_SUMMARY, summary))
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
    """Seven bits a byte, the lowest first."""
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
