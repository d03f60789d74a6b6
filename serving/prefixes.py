"""Which slot a request gets, and how much of its prompt another one has left there.

A slot remembers the tokens whose keys and values a prompt computed. Those of answers are not reused: decoding rounds
differently, and a text must not depend on the cache. Scores of a prompt's tokens are remembered with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.request import Alternatives

LEAST = 16  # tokens that are worth a copy
Score = tuple[float | None, Alternatives]


@dataclass
class Slot:
    """tokens: computed prompt tokens, int32. scores: of the first of them, with `top` alternatives each."""

    number: int
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    scores: list[Score] = field(default_factory=list)
    top: int = -1
    is_free: bool = True
    used_at: int = 0

    def reusable(self, prompt: np.ndarray, *, top: int | None) -> int:
        """How many of the prompt's tokens need not be computed; top: alternatives wanted of scores, None: no scores.

        The last token is always computed, and, for scores, the last common one: its output scores the next.
        """
        common = shared(self.tokens, prompt)
        if top is None:
            return min(common, len(prompt) - 1)
        return max(0, min(common, len(self.scores)) - 1) if self.top >= top else 0


def shared(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


@dataclass(frozen=True)
class Placement:
    """A slot for a request, the tokens it can keep, and the slot to copy them from, if that is another one."""

    slot: Slot
    kept: int
    source: Slot | None


class Prefixes:
    """The slots, and their choice."""

    def __init__(self, count: int):
        self.slots = [Slot(number) for number in range(count)]
        self._clock = 0

    def place(self, prompt: np.ndarray, *, top: int | None) -> Placement:
        """Takes a free slot for a prompt; there must be one.

        The slot with the longest common beginning is continued if nothing else is lost with it, or copied from.
        """
        free = sorted(
            (slot for slot in self.slots if slot.is_free), key=lambda slot: (len(slot.tokens) > 0, slot.used_at)
        )
        best = max(self.slots, key=lambda slot: slot.reusable(prompt, top=top))
        kept = best.reusable(prompt, top=top)
        others = [slot for slot in free if slot is not best]
        if kept < LEAST:
            placement = Placement(free[0], 0, None)
        elif best.is_free and (not others or len(best.tokens) - kept < LEAST):
            placement = Placement(best, kept, None)
        else:
            placement = Placement(others[0], kept, best)
        self._take(placement, prompt, top)
        return placement

    def _take(self, placement: Placement, prompt: np.ndarray, top: int | None) -> None:
        slot, source = placement.slot, placement.source or placement.slot
        has_scores = top is not None and placement.kept > 0
        slot.scores = source.scores[: placement.kept + 1] if has_scores else []
        slot.top = (source.top if has_scores else top) if top is not None else -1
        slot.tokens, slot.is_free = prompt[: placement.kept], False
        self.touch(slot)
        self.touch(source)

    def touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock

    def free(self, slot: Slot) -> None:
        slot.is_free = True
        self.touch(slot)

    def longest(self, prompt: np.ndarray) -> int:
        """The most tokens of a prompt that a slot has."""
        return max(shared(slot.tokens, prompt) for slot in self.slots)


def waits(prompt: np.ndarray, prompts: Sequence[np.ndarray], prefixes: Prefixes) -> bool:
    """Whether one of the prompts that are being computed will soon have much more of this one than any slot has."""
    soon = max((shared(other, prompt) for other in prompts), default=0)
    return soon >= LEAST and soon - 2 * LEAST >= prefixes.longest(prompt)
