"""A person at the keyboard of --interactive."""

from collections.abc import Callable, Iterable


def typed(lines: Iterable[str]) -> Callable[[str], str]:
    """An `ask` that types these lines one after the other, then ends the input."""
    rest = iter(lines)

    def ask(_: str = "") -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return ask
