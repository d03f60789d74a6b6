"""Counts the windows and tokens that a run was trained on, across changes of batch size and data."""

import math
from typing import Any, NamedTuple


class DataSpan(NamedTuple):
    """Steps with equal batches. windows, tokens: trained on before `step`. data: the settings that determine the
    order of windows (None for runs that did not record them). first_window: windows trained on before these data.
    skipped: windows of these data that rollbacks have left out. rollbacks: of the run so far.
    """

    step: int
    windows: int
    tokens: int
    batch_size: int
    tokens_per_window: int
    data: dict[str, Any] | None
    first_window: int
    skipped: int = 0
    rollbacks: int = 0

    def windows_at(self, step: int) -> int:
        return self.windows + (step - self.step) * self.batch_size

    def tokens_at(self, step: int) -> int:
        return self.tokens + (step - self.step) * self.batch_size * self.tokens_per_window

    def window_at(self, step: int) -> int:
        """Index of the first window of the step after `step` finished ones."""
        return self.windows_at(step) - self.first_window + self.skipped

    def moved(self, step: int, bad_step: int) -> "DataSpan":
        """The span of a run that returns to `step`, and reads there the batch after the one of `bad_step`."""
        return self._replace(
            step=step,
            windows=self.windows_at(step),
            tokens=self.tokens_at(step),
            skipped=self.skipped + (bad_step - step) * self.batch_size,
            rollbacks=self.rollbacks + 1,
        )

    def total_steps(self, *, max_steps: int | None, max_tokens: int | None, max_windows: float | None) -> int:
        """Step at which the first limit is reached, given the earlier batches; at least 1."""
        ends = [max_steps] if max_steps is not None else []
        if max_tokens is not None:
            ends.append(self.step + math.ceil((max_tokens - self.tokens) / (self.batch_size * self.tokens_per_window)))
        if max_windows is not None:
            ends.append(self.step + math.floor((max_windows - self.windows + self.first_window) / self.batch_size))
        return max(1, min(ends))


class DataPosition:
    """Where a run is in its data.

    spans: of the run so far; the last one applies to the coming steps. evaluation: digest of the windows that it is
    evaluated on, or "".
    """

    def __init__(self, spans: list[DataSpan], *, evaluation: str = ""):
        self.spans, self.evaluation = spans, evaluation

    def tokens_at(self, step: int) -> int:
        """Tokens trained on in `step` steps."""
        return self.spans[-1].tokens_at(step)

    def window_at(self, step: int) -> int:
        """Index of the first window of the step after `step` finished ones."""
        return self.spans[-1].window_at(step)

    def windows_of(self, step: int) -> range:
        """Numbers of the windows in the batch of a step, counted from 1."""
        return range(self.window_at(step - 1), self.window_at(step))

    def move(self, step: int, bad_step: int) -> None:
        """From `step` on, reads the batches after the one of `bad_step`."""
        moved = self.spans[-1].moved(step, bad_step)
        self.spans = [span for span in self.spans if span.step < step] + [moved]
