"""The command lines of the programs: a parser and types of arguments, for `argparse`."""

import argparse
import difflib
import math
import re
import sys
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

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.splitlines())
        if given := re.match(r"unrecognized arguments: (\S+)(?: ([^-]\S*))?", line):
            line += self._advice(given[1], given[2])
        elif line.startswith("the following arguments are required"):  # one of them may be misspelled
            flags = [given for given in self._given if given.startswith("--")]
            unknown = next((flag for flag in flags if flag.partition("=")[0] not in self._option_string_actions), None)
            line += f"; {unknown} is no option{self._advice(unknown, None)}" if unknown else ""
        elif (flag := re.match(r"argument (\S+): expected \d+ arguments", line)) and (
            action := self._option_string_actions.get(flag[1])
        ):
            line += f"; write {flag[1]} {' '.join(action.metavar or [])}"
        self.exit(EXIT_ERROR, f"error: {line}; {self.prog} --help shows all options\n")

    def _advice(self, unknown: str, value: str | None) -> str:
        """What to write for an argument that the program does not have. value: the argument after it, if any."""
        options = self._option_string_actions
        if "--set" in options and re.match(r"\w+=", unknown):
            return f"; each key has a --set of its own: --set {unknown}"
        if not unknown.startswith("--"):
            return f"; write --model {unknown}" if unknown.endswith(".json") and "--model" in options else ""
        name, _, given = unknown.partition("=")
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
        advice = f"; did you mean {near[0]}?" if near else ""
        if "--set" in options:  # a key, such as predict_batch_size, may resemble an option
            advice += f"{'' if near else ';'} keys of the JSON file: --set {name[2:]}={given or value or 'VALUE'}"
        return advice


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
