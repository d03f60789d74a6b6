"""The command lines of the programs: a parser and types of arguments, for `argparse`."""

import argparse
import difflib
import math
import re
from typing import NoReturn

from estimator.interrupts import EXIT_ERROR


class Parser(argparse.ArgumentParser):
    """Shows the program's docstring as it is written, and a wrong command line as one line, as other errors."""

    def __init__(self, description: str | None, *, usage: str | None = None):
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # a flag that is added later must not change what a command line means
        )
        self.register("type", None, text)  # of arguments without a type; a file's name may be any bytes: type=str

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.splitlines())
        if flag := re.match(r"unrecognized arguments: (--[^ =]+)", line):
            near = difflib.get_close_matches(flag[1], self._option_string_actions, n=1)
            line += f"; did you mean {near[0]}?" if near else ""
        self.exit(EXIT_ERROR, f"error: {line}; {self.prog} --help shows all options\n")


def text(value: str) -> str:
    """Text that files and tokenizers can take: Python reads bytes that are not UTF-8 as halves of characters."""
    try:
        return value.encode(errors="surrogateescape").decode()  # also where the locale has another encoding
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{value!a} is not UTF-8; set the terminal to UTF-8") from None


def number(text: str) -> float:
    """A finite number; ValueError for nan and inf, which pass every comparison or none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def steps(text: str) -> range:
    """START:STOP, the steps from when START are done until STOP are."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r}: write START:STOP, such as 10:15 for five steps")
    return range(int(first), int(last))
