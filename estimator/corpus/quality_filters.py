"""Quality filters; each has a name, under which dropped documents are counted.

They are those of Gopher (Rae et al., 2021, https://arxiv.org/abs/2112.11446, A1.1) and C4 (Raffel et al., 2020,
https://arxiv.org/abs/1910.10683, section 2.2) that judge a text as a whole, with the values printed there. Rules that
count words leave out languages that write none; the rule of English function words is for English.
"""

import collections
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from estimator.corpus.minhash import WORD

MIN_WORDS, MAX_WORDS = 50, 100_000
MIN_WORD_CHARS, MAX_WORD_CHARS = 3, 10
MAX_SYMBOLS_PER_WORD = 0.1
MAX_BULLET_LINES, MAX_ELLIPSIS_LINES = 0.9, 0.3
MIN_ALPHABETIC_WORDS = 0.8
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
MIN_STOP_WORDS = 2
MAX_REPEATED_LINES, MAX_REPEATED_LINE_CHARS = 0.3, 0.2
# Of n words in a row: the largest share of all characters that the most frequent run may have, and that all runs that
# occur more than once may have.
MAX_TOP_RUN = {2: 0.20, 3: 0.18, 4: 0.16}
MAX_REPEATED_RUNS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
RUN_FACTOR = np.uint64(0x9E3779B97F4A7C15)
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25aa", "\u25cf", "\u2013")
ELLIPSES = ("...", "\u2026")
# Languages that are written without spaces between the words.
WITHOUT_WORDS = frozenset(("zh", "ja", "th", "lo", "km", "my", "bo", "dz"))
BOILERPLATE = re.compile(
    r"lorem ipsum|(enable|requires?|turn on) javascript|javascript (is )?(required|disabled)", re.I
)


class Text(NamedTuple):
    """A text as the rules see it. words: as written between blanks. lines: without blank ones."""

    text: str
    words: list[str]
    lines: list[str]
    language: str


def reason(text: str, *, language: str = "", rules: tuple[str, ...] | None = None) -> str | None:
    """The name of the first rule that the text breaks, or None.

    language: ISO 639 code, "" where unknown. rules: names of RULES; all by default.
    """
    lines = [line for line in (line.strip() for line in text.splitlines()) if line]
    words = WORD.findall(text) if language in WITHOUT_WORDS else text.split()
    seen = Text(text, words, lines, language)
    return next((name for name in (RULES if rules is None else rules) if RULES[name](seen)), None)


def _too_short(seen: Text) -> bool:
    """Gopher: fewer than 50 words."""
    return len(seen.words) < MIN_WORDS


def _too_long(seen: Text) -> bool:
    """Gopher: more than 100,000 words."""
    return len(seen.words) > MAX_WORDS


def _word_length(seen: Text) -> bool:
    """Gopher: a mean length of words outside 3 to 10 characters."""
    if seen.language in WITHOUT_WORDS or not seen.words:
        return False
    return not MIN_WORD_CHARS <= sum(map(len, seen.words)) / len(seen.words) <= MAX_WORD_CHARS


def _symbols(seen: Text) -> bool:
    """Gopher: more than one hash mark, or one ellipsis, in ten words."""
    ellipses = sum(map(seen.text.count, ELLIPSES))
    return max(seen.text.count("#"), ellipses) > MAX_SYMBOLS_PER_WORD * len(seen.words)


def _bullets(seen: Text) -> bool:
    """Gopher: more than 90 % of the lines begin with a bullet."""
    return sum(line.startswith(BULLETS) for line in seen.lines) > MAX_BULLET_LINES * len(seen.lines)


def _ellipses(seen: Text) -> bool:
    """Gopher: more than 30 % of the lines end with an ellipsis."""
    return sum(line.endswith(ELLIPSES) for line in seen.lines) > MAX_ELLIPSIS_LINES * len(seen.lines)


def _not_words(seen: Text) -> bool:
    """Gopher: fewer than 80 % of the words have a letter in them."""
    if seen.language in WITHOUT_WORDS:
        return False
    return sum(any(map(str.isalpha, word)) for word in seen.words) < MIN_ALPHABETIC_WORDS * len(seen.words)


def _stop_words(seen: Text) -> bool:
    """Gopher: an English text with fewer than two of the words the, be, to, of, and, that, have, with."""
    if seen.language != "en":
        return False
    return len(STOP_WORDS & {word.strip('.,;:!?"()').lower() for word in seen.words}) < MIN_STOP_WORDS


def _repeated_lines(seen: Text) -> bool:
    """Gopher: more than 30 % of the lines, or 20 % of the characters, are in lines that were there before."""
    counts = collections.Counter(seen.lines)
    again = sum(count - 1 for count in counts.values())
    chars = sum((count - 1) * len(line) for line, count in counts.items())
    return again > MAX_REPEATED_LINES * len(seen.lines) or chars > MAX_REPEATED_LINE_CHARS * len(seen.text)


def _repeated_words(seen: Text) -> bool:
    """Gopher: runs of 2 to 10 words that occur again and again."""
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word.lower(), len(ids)) for word in seen.words], np.uint64)
    ends = np.cumsum([0, *map(len, seen.words)])
    runs = words
    for size in range(2, max(MAX_REPEATED_RUNS) + 1):
        if len(runs) < 2:
            return False
        runs = runs[:-1] * RUN_FACTOR + words[size - 1 :]
        _, firsts, names, counts = np.unique(runs, return_index=True, return_inverse=True, return_counts=True)
        if counts.max() == 1:
            return False  # then no longer run occurs twice either
        chars = ends[size:] - ends[:-size]
        if size in MAX_TOP_RUN:
            top = (chars[firsts] * counts)[counts == counts.max()].max()
            if top > MAX_TOP_RUN[size] * ends[-1]:
                return True
        elif _chars_in_repeated_runs(firsts[names], chars, size) > MAX_REPEATED_RUNS[size] * ends[-1]:
            return True
    return False


def _chars_in_repeated_runs(firsts: np.ndarray, chars: np.ndarray, size: int) -> int:
    """Characters of the runs that occurred before, each character once.

    firsts: where the same run is for the first time. chars: of each run.
    """
    total, free = 0, 0
    for at in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
        if at >= free:
            total += int(chars[at])
            free = at + size
    return total


def _boilerplate(seen: Text) -> bool:
    """C4: placeholder text anywhere, or a short text that asks for JavaScript."""
    found = BOILERPLATE.search(seen.text)
    return found is not None and (found[0].lower() == "lorem ipsum" or len(seen.words) < 4 * MIN_WORDS)


RULES: dict[str, Callable[[Text], bool]] = {
    "too_short": _too_short,
    "too_long": _too_long,
    "word_length": _word_length,
    "symbols": _symbols,
    "bullets": _bullets,
    "ellipses": _ellipses,
    "not_words": _not_words,
    "stop_words": _stop_words,
    "repeated_lines": _repeated_lines,
    "repeated_words": _repeated_words,
    "boilerplate": _boilerplate,
}
