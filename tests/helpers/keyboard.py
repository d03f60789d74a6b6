"""Scripted keyboard input for --interactive."""

from collections.abc import Callable, Iterable


def typed(lines: Iterable[str]) -> Callable[[str], str]:
    """Returns an input function that returns these lines and then signals the end of the input."""
    rest = iter(lines)

    def ask(_: str = "") -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return ask
