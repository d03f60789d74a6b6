"""Near-duplicates: which documents of a large set say almost the same as an earlier one.

MinHash (Broder, 1997): `signatures` turns each text into 128 numbers of which two texts share about as many as they
share runs of five words (their Jaccard similarity); workers do this where the text is. `duplicates` then needs the
signatures alone: documents that agree in a whole band of numbers are candidates (locality-sensitive hashing; Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3), the signatures decide, and of each group of alike documents
the first stays. One band is in memory at a time, so the signatures may be memory-mapped files larger than memory.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from estimator.errors import UserError

HASHES = 128
SHINGLE_WORDS = 5
THRESHOLD = 0.8
# A pair exactly at the threshold becomes a candidate with at least this probability; more alike ones with a higher one.
FOUND = 0.9
# Writing without spaces between the words: each character counts as a word.
WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+")
_WORD_OR_CHARACTER = re.compile(rf"{WORD.pattern}|\S")
BLOCK_SHINGLES = 256
BLOCK_ROWS = 1 << 16
# Fixed numbers: signatures of different machines and years can be compared.
_FACTORS, _OFFSETS = np.random.Generator(np.random.PCG64(1997)).integers(0, 1 << 32, (2, HASHES, 1), dtype=np.uint32)
_FACTORS |= np.uint32(1)
_PLACES = np.random.Generator(np.random.PCG64(2000)).integers(0, 1 << 64, SHINGLE_WORDS, dtype=np.uint64) | np.uint64(1)


def signatures(texts: Iterable[str]) -> np.ndarray:
    """uint32 [texts, HASHES]: the MinHash signature of each text; case, punctuation and spacing do not count.

    A text of fewer than SHINGLE_WORDS words is one shingle. In a text without a word, or with more symbols (emoji,
    Braille) than letters, each character that is no space counts as a word.
    """
    rows = [_signature(_shingles(text)) for text in texts]
    return np.stack(rows) if rows else np.empty((0, HASHES), np.uint32)


def duplicates(parts: Sequence[np.ndarray], *, threshold: float = THRESHOLD) -> np.ndarray:
    """bool [documents]: True for each document that is alike to an earlier one, directly or through others.

    parts: signatures uint32 [n_i, HASHES] in the order of the documents, in memory or memory-mapped; how they are
        divided makes no difference.
    threshold: the share of equal numbers, in (0, 1], from which two documents are alike. As an estimate of the Jaccard
        similarity it has a standard deviation of at most 0.044 (0.035 at 0.8).
    Takes about 40 bytes of memory a document. Raises UserError for a threshold out of range.
    """
    check(threshold)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    first = np.arange(starts[-1])
    rows = band_rows(threshold)
    for band in range(0, HASHES, rows):
        one, other = _candidates(_band_keys(parts, band, rows))
        undecided = first[one] != first[other]
        one, other = one[undecided], other[undecided]
        alike = np.zeros(len(one), bool)
        for at in range(0, len(one), BLOCK_ROWS):
            block = slice(at, at + BLOCK_ROWS)
            same = _gather(parts, starts, one[block]) == _gather(parts, starts, other[block])
            alike[block] = np.count_nonzero(same, axis=1) >= threshold * HASHES
        first = _united(first, one[alike], other[alike])
    return first != np.arange(starts[-1])


def check(threshold: float) -> None:
    """UserError for a threshold out of range."""
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold of near-duplicates is {threshold}; it must be above 0 and at most 1")


def band_rows(threshold: float) -> int:
    """Numbers per band: as many as possible while a pair at the threshold is still found with probability FOUND.

    A pair of similarity s agrees in a band of r numbers with probability s^r, and in one of HASHES / r bands at least
    with 1 - (1 - s^r)^(HASHES / r). For 0.8 that makes 16 bands of 8, and 0.947 at 0.8, 0.9999 at 0.9.
    """
    found = {rows: 1 - (1 - threshold**rows) ** (HASHES // rows) for rows in (1, 2, 4, 8, 16, 32)}
    return max((rows for rows, probability in found.items() if probability >= FOUND), default=1)


def _shingles(text: str) -> np.ndarray:
    """uint32: a hash of every run of SHINGLE_WORDS words."""
    words = _words(text.lower())
    hashes = np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) for word in words), np.uint64, len(words))
    runs = max(1, len(words) - SHINGLE_WORDS + 1)
    mixed = np.zeros(runs, np.uint64)
    for place in range(min(SHINGLE_WORDS, len(words))):
        mixed += (hashes[place : place + runs] + np.uint64(1)) * _PLACES[place]
    return (_scrambled(mixed) >> np.uint64(32)).astype(np.uint32)


def _words(text: str) -> list[str]:
    words = WORD.findall(text)
    letters = sum(map(len, words))
    # Symbols are looked for only where letters are few, because that takes time.
    if words and (2 * letters > len(text) or sum(map(_is_symbol, text)) <= letters):
        return words
    return _WORD_OR_CHARACTER.findall(text)


def _is_symbol(character: str) -> bool:
    """Punctuation and the marks of letters are none; unassigned characters may be newer emoji."""
    return unicodedata.category(character) in ("So", "Sm", "Sk", "Sc", "Co", "Cn")


def _scrambled(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea, Flood, 2014): each bit of the result depends on all bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signature(shingles: np.ndarray) -> np.ndarray:
    lowest = np.full(HASHES, 0xFFFFFFFF, np.uint32)
    for at in range(0, len(shingles), BLOCK_SHINGLES):
        # Modulo 2^32; the processor multiplies many such numbers in one instruction, but no 64-bit ones.
        hashed = shingles[at : at + BLOCK_SHINGLES] * _FACTORS
        hashed += _OFFSETS
        np.minimum(lowest, hashed.min(axis=1), out=lowest)
    return lowest


def _band_keys(parts: Sequence[np.ndarray], band: int, rows: int) -> np.ndarray:
    """uint64 [documents]: equal where all numbers of the band are (and once in 2^64 pairs where they are not)."""
    keys = np.empty(sum(len(part) for part in parts), np.uint64)
    done = 0
    for part in parts:
        for block in _blocks(part):
            mixed = np.zeros(len(block), np.uint64)
            for column in range(band, band + rows):
                mixed = _scrambled(mixed + block[:, column])
            keys[done : done + len(block)] = mixed
            done += len(block)
    return keys


def _blocks(part: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(0, len(part), BLOCK_ROWS):
        yield part[at : at + BLOCK_ROWS]


def _candidates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of documents of equal keys: each with the first of its group, and with the one before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    sizes = np.diff(starts, append=len(keys))
    groups = np.repeat(starts, sizes)
    members = np.flatnonzero(groups != np.arange(len(keys)))
    later = members[groups[members] != members - 1]
    one = np.concatenate([order[groups[members]], order[later - 1]])
    return one, np.concatenate([order[members], order[later]])


def _gather(parts: Sequence[np.ndarray], starts: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Signatures of some documents, [documents, HASHES]."""
    found = np.empty((len(documents), HASHES), np.uint32)
    owners = np.searchsorted(starts, documents, side="right") - 1
    for owner in np.unique(owners):
        here = owners == owner
        found[here] = parts[owner][documents[here] - starts[owner]]
    return found


def _united(first: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The first document of each one's group, after the groups of the pairs are united."""
    first = first.copy()
    while True:
        a, b = first[one], first[other]
        apart = a != b
        if not apart.any():
            return first
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(first, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(shorter := first[first], first):
            first = shorter
