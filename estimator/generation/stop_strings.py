"""Strings that end a text which is generated piece by piece."""

from collections.abc import Sequence


def begin_of_first(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that ends first, so that text which comes later changes nothing; None without one.

    Of several that end at the same place it is the longest one.
    """
    places = [(place + len(word), place) for word in stop if word and (place := text.find(word)) >= 0]
    return min(places)[1] if places else None


def undecided(text: str, stop: Sequence[str]) -> int:
    """The characters at the end of a text without a stop string that may begin one."""
    return max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
