"""The key `budget`: an amount of time, tokens or FLOPs."""

import math
import re
from typing import Literal, NamedTuple

from estimator.errors import UserError

Kind = Literal["seconds", "tokens", "flops"]
EXAMPLES = "write it as 30min, 2h, 1.5d, 500M tokens, or 1e18 flops"
SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
SECONDS |= {"d": 86400, "day": 86400}
COUNTED: dict[str, Kind] = {"token": "tokens", "tok": "tokens", "flop": "flops"}
PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
NUMBER = r"[+-]?(?:(?:\d{1,3}(?:[_,]\d{3})+|\d+)\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"  # a comma is no decimal point
AMOUNT = re.compile(rf"\s*({NUMBER})\s*([kKMBGTPEZ]?)\s*([A-Za-z]*)\s*")


class Budget(NamedTuple):
    """seconds: from the start of the command, measuring and compiling included. tokens: trained on. flops: of training,
    as `flops.flops_per_token` counts them."""

    kind: Kind
    amount: float

    def __str__(self) -> str:
        if self.kind == "seconds":
            return duration(self.amount)
        amount = f"{self.amount:,.0f}" if self.amount < 1e12 else f"{self.amount:.4g}"
        return f"{amount} {'FLOPs' if self.kind == 'flops' else self.kind}"


def parse(value: object) -> Budget:
    """Reads the value of the key. Raises UserError that names the fix."""
    match = AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if not match or not match[2] + match[3]:
        missing = "has no unit" if match or isinstance(value, int | float) else "is no amount"
        raise UserError(f"budget: {value!r} {missing}; {EXAMPLES}")
    number, (prefix, unit) = float(re.sub("[_,]", "", match[1])), _unit(match[2], match[3])
    if unit not in SECONDS | COUNTED or (prefix and unit in SECONDS):
        raise UserError(f"budget: {value!r} has the unknown unit {match[2] + match[3]!r}; {EXAMPLES}")
    kind: Kind = COUNTED.get(unit, "seconds")
    amount = number * PREFIXES[prefix] * SECONDS.get(unit, 1)
    if not 0 < amount < math.inf:
        raise UserError(f"budget: {value!r} is not a positive amount; {EXAMPLES}")
    return Budget(kind, amount)


def _unit(prefix: str, word: str) -> tuple[str, str]:
    """("M", "Tokens") as ("M", "token"), and ("M", "in") as ("", "min")."""
    whole = _singular(prefix + word)
    return ("", whole) if word and whole in SECONDS | COUNTED else (prefix, word and _singular(word))


def _singular(word: str) -> str:
    """Only words of two letters and more have a plural: "ms" is milliseconds, and no minutes."""
    word = word.lower()
    return word.removesuffix("s") if len(word) > 2 else word


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 3.5 min, 2 h, 3 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h"), (math.inf, 86400, "days")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    raise AssertionError
