"""Decodes token ids: varints of seven bits a byte, lowest first, whose top bit says "more follows".

Many are decoded at a time: every byte whose predecessor ends a number starts one, the four bytes from there are
gathered as one word and folded.
"""

import numpy as np

FAST_LIMIT = 1 << 28  # ids below it take at most four bytes, which is what this decoder reads


def decode_varints(buffer: bytes, start: int, stop: int) -> np.ndarray:
    """The integers in `buffer[start:stop]` as int32, for varints of at most four bytes.

    The byte before `start` must end a number (the last byte of a length does), and three bytes must follow `stop`.
    """
    return _decode(buffer, start, stop)[1]


def decode_spans(buffer: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes a whole buffer that holds several lists of varints, with other bytes between them.

    starts: int64 [lists], where the lists begin, each after a byte that ends a number.
    Returns values int32, the place in `buffer` where each value begins, and for each list the index of its first value.
    Bytes between the lists give meaningless values. The last three bytes are not read.
    """
    first = int(starts[0])
    places, values = _decode(buffer, first, len(buffer) - 3)
    places += first
    return values, places, np.searchsorted(places, starts)


def _decode(buffer: bytes, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    begins = np.frombuffer(buffer, np.uint8, stop - start, start - 1) < 0x80
    places = begins.nonzero()[0]
    # The word that begins at every byte. Copied first, because a gather from unaligned words takes twice as long.
    words = np.ndarray((stop - start,), "<u4", buffer, start, (1,)).copy().take(places)
    _fold(words)
    return places, words.view(np.int32)


def five_byte_varints(buffer: bytes) -> np.ndarray:
    """The places in a buffer of four bytes in a row that end no number: varints which the above cannot read."""
    more = np.frombuffer(buffer, np.uint8) >= 0x80
    return (more[:-3] & more[1:-2] & more[2:-1] & more[3:]).nonzero()[0]


def _fold(words: np.ndarray) -> None:
    """Turns words that hold a varint in their low bytes, and whatever follows it above, into its value; in place."""
    mask = words | 0x7F7F7F7F
    low = mask + 1  # the carry stops at the first byte without "more follows": they differ up to there
    mask ^= low
    words &= mask
    np.bitwise_and(words, 0x007F007F, out=low)
    words &= 0x7F007F00
    words >>= 1
    words |= low
    np.bitwise_and(words, 0x3FFF, out=low)
    words >>= 2
    words &= 0x0FFFC000
    words |= low
