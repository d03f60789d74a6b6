"""In which language a text is, by py3langid (after langid.py: Lui and Baldwin, 2012, https://aclanthology.org/P12-3005).

A classifier is sure of any long text, a mixed one too. So a text is judged in pieces, and how many of them agree tells
how much of it is in its language.
"""

import functools
import importlib.util
from typing import Any, NamedTuple

from estimator import invocation
from estimator.errors import UserError, import_failed

INSTALL = f"languages need py3langid: {invocation.install('data')}"
PIECE_CHARS = 1000
PIECES = 8


class Language(NamedTuple):
    """code: ISO 639, or "" of a text without letters. share: of the pieces that are in it, 0 to 1."""

    code: str
    share: float


def language_of(text: str) -> Language:
    """The language of most of the text; at most PIECES pieces, evenly spread, are looked at."""
    if not any(map(str.isalpha, text)):
        return Language("", 0.0)
    if len(text) <= PIECES * PIECE_CHARS:
        starts = list(range(0, len(text), PIECE_CHARS))
    else:
        starts = [number * (len(text) - PIECE_CHARS) // (PIECES - 1) for number in range(PIECES)]
    votes: dict[str, int] = {}
    identifier = _identifier()
    for start in starts:
        piece = text[start : start + PIECE_CHARS]
        code, _ = identifier.classify(piece)
        votes[code] = votes.get(code, 0) + len(piece)
    best = max(votes, key=lambda code: votes[code])
    return Language(best, round(votes[best] / sum(votes.values()), 3))


def require(languages: tuple[str, ...]) -> None:
    """Raises UserError where the package is missing or knows one of the languages not."""
    if importlib.util.find_spec("py3langid") is None:
        raise UserError(INSTALL)
    if not languages:
        return
    known = {str(label) for label in _identifier().labels}
    for code in languages:
        if code not in known:
            raise UserError(f"no language {code!r}; available: {', '.join(sorted(known))}")


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise import_failed(error, INSTALL) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)
