"""gigatoken, which encodes many times faster than other libraries, wherever it gives exactly the same ids."""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

EncodeBatch = Callable[[Sequence[str]], list[np.ndarray]]
EncodeUtf8 = Callable[[Sequence[bytes]], list[np.ndarray]]


class Unsuitable(Exception):
    """Why gigatoken is not used, in words that follow the name of a vocabulary."""


# Code points of Unicode 17, which gigatoken 0.10.0 knows as letters, digits and marks and tokenizers 0.23 does not.
_UNICODE_17 = (
    (0x088F, 0x088F), (0x0C5C, 0x0C5C), (0x0CDC, 0x0CDC), (0x1ACF, 0x1AEB), (0xA7CE, 0xA7D4), (0xA7F1, 0xA7F1),
    (0x10940, 0x1095F), (0x10EC5, 0x10ED8), (0x10EFA, 0x10EFB), (0x11B60, 0x11B67), (0x11DB0, 0x11DEF),
    (0x16EA0, 0x16EDF), (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DFF),
    (0x1E6C0, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x3347F),
)  # fmt: skip
_LOOKED_AT = 1 << 16  # ids whose marks stay in the processor's cache
_NEWER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNICODE_17) + "]")


def newer_tokens(table: Sequence[bytes]) -> np.ndarray:
    """bool [n_vocab]: the tokens that may hold the beginning of a code point that the libraries classify differently.

    table: the bytes of each id.
    """
    newer = {chr(code).encode() for first, last in _UNICODE_17 for code in range(first, last + 1)}
    beginnings = {char[:size] for char in newer for size in range(1, len(char) + 1)}
    leads = {char[0] for char in newer}
    return np.array(
        [any(byte in leads and _char_at(token, i) in beginnings for i, byte in enumerate(token)) for token in table]
    )


def _char_at(token: bytes, i: int) -> bytes:
    return token[i : i + (3 if token[i] < 0xF0 else 4)]


def encoder(
    make: Callable[[Any], Any],
    *,
    probe: list[str],
    expected: list[list[int]],
    newer: np.ndarray | None = None,
    reference: EncodeUtf8 | None = None,
) -> Callable[[Sequence[str] | Sequence[bytes]], list[np.ndarray]]:
    """Returns a function from texts (str or, faster, UTF-8) to an int32 array of ids for each.

    make: makes gigatoken's tokenizer from its module. probe, expected: texts and their required ids.
    newer, reference: `newer_tokens` of a vocabulary that divides text by classes of characters, and the function that
    encodes the texts in which the libraries' classes differ; the ids are searched, which costs less than the texts.
    Raises Unsuitable where gigatoken is not installed, does not know this kind of vocabulary, or has other ids.
    """
    try:
        import gigatoken

        fast = make(gigatoken)
        ids = fast.encode_batch_list(probe)
    except ModuleNotFoundError:
        raise Unsuitable("gigatoken is not installed") from None
    except ImportError as error:
        raise Unsuitable(f"gigatoken cannot be imported ({error})") from None
    except (RuntimeError, ValueError) as error:
        raise Unsuitable(f"gigatoken cannot read this vocabulary ({str(error).partition(chr(10))[0]})") from None
    if ids != expected:
        raise Unsuitable("gigatoken gives other ids for this vocabulary")
    return functools.partial(_batch, fast, newer=newer, reference=reference)


def _batch(
    fast: Any, texts: Sequence[str] | Sequence[bytes], *, newer: np.ndarray | None, reference: EncodeUtf8 | None
) -> list[np.ndarray]:
    batch = fast.encode_batch(texts)
    if isinstance(batch, list):  # of arrays, where gigatoken cannot import awkward: without the memory, for example
        content = np.concatenate([np.empty(0, np.uint32), *batch]).view(np.int32)
        offsets = np.cumsum([0, *map(len, batch)])
    else:
        content = np.asarray(batch.layout.content.data).view(np.int32)
        offsets = np.asarray(batch.layout.offsets.data)
    ids = [content[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    if newer is None or reference is None:
        return ids
    for start in range(0, len(content), _LOOKED_AT):
        places = start + np.flatnonzero(newer.take(content[start : start + _LOOKED_AT], mode="clip"))
        for i in np.unique(np.searchsorted(offsets, places, side="right") - 1).tolist():
            if _NEWER.search(texts[i].decode()):
                (ids[i],) = reference([texts[i]])
    return ids
