"""Log-likelihoods of windows of tokens on all devices of a run.

Windows of similar length share a batch; lengths are rounded up to few values, and so are the numbers of scored tokens,
so that few programs are compiled and little is computed for nothing. Of several processes each computes its rows of a
batch, and all get all results.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from estimator.data.batches import rows_of
from estimator.errors import NOT_FINITE, UserError
from estimator.estimator import Estimator
from estimator.evaluation.windows import Window
from estimator.parallel import mesh
from estimator.training.monitor import IN_FLIGHT
from estimator.training.prefetch import place

SMALLEST = 16  # tokens of a row, and of its scored part
DEVICE_TOKENS = {"cpu": 2048}  # tokens of a batch on a device
OTHER_TOKENS = 16_384
LOOKAHEAD = 8192  # windows that are sorted by length together


class Scores(NamedTuple):
    """Of the scored tokens of a window: log-likelihoods in nats, float32, and whether each is the likeliest one."""

    logprobs: np.ndarray
    is_greedy: np.ndarray


class Scorer:
    """Scores windows with one set of weights. n_ctx: the most inputs of a window. A collective on several processes."""

    def __init__(
        self, estimator: Estimator, params: Any, *, n_ctx: int, progress: Callable[[int], object] = lambda tokens: None
    ):
        """progress: called with the number of tokens that were scored. UserError if the model scores no tokens."""
        spec = estimator.spec("eval")
        if spec.score is None:
            raise UserError("this model scores no tokens: its model_fn gives no score; --evaluate alone evaluates it")
        self.n_ctx = n_ctx
        self._params, self._progress = params, progress
        self._mesh, self._share = estimator.mesh, estimator.process_slice
        self._score = jax.jit(spec.score, out_shardings=mesh.replicated(self._mesh))
        tokens = DEVICE_TOKENS.get(self._mesh.devices.flat[0].platform, OTHER_TOKENS)
        if estimator.config.eval_batch_size:
            tokens = n_ctx * max(1, estimator.config.eval_batch_size // mesh.batch_shards(self._mesh))
        limit = estimator.config.micro_batch_size or estimator.examples_that_fit(spec)
        self._device_tokens = int(max(n_ctx, min(tokens, limit * n_ctx)))

    def __call__(self, windows: Iterable[Window]) -> Iterator[Scores]:
        """Yields the scores of each window, in order. A window has up to n_ctx + 1 tokens."""
        return (scores for _, scores in self.with_windows(windows))

    def with_windows(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Scores]]:
        """Yields each window with its scores, in order. Raises UserError for scores that are not finite."""
        windows = iter(windows)
        while group := list(itertools.islice(windows, LOOKAHEAD)):
            yield from zip(group, self._scored(group), strict=True)

    def _scored(self, windows: list[Window]) -> list[Scores]:
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i].tokens))
        scores: dict[int, Scores] = {}
        pending: deque[tuple[list[int], Any]] = deque()
        first = 0
        while first < len(order) or pending:
            if first < len(order):
                length = self._rounded(len(windows[order[first]].tokens) - 1)
                numbers = order[first : first + self._rows(length)]
                first += len(numbers)
                pending.append((numbers, self._dispatch([windows[i] for i in numbers], length)))
            if len(pending) > IN_FLIGHT or first == len(order):
                numbers, outputs = pending.popleft()
                for i, *rows in zip(numbers, *jax.device_get(outputs), strict=False):
                    count = len(windows[i].tokens) - windows[i].scored
                    scores[i] = Scores(*(row[:count] for row in rows))
                    if not np.isfinite(scores[i].logprobs).all():
                        raise UserError(NOT_FINITE)
                    self._progress(count)
        return [scores[i] for i in range(len(windows))]

    def _dispatch(self, windows: list[Window], length: int) -> Any:
        """Starts a batch: rows of `length` inputs, padded on the right, and with rows that nobody reads."""
        shards = mesh.batch_shards(self._mesh)
        rows = min(self._rows(length), -(-_power(len(windows)) // shards) * shards)
        width = min(length, _power_of_four(max(len(window.tokens) - window.scored for window in windows)))
        batch = {
            "tokens": np.zeros((rows, length), np.int32),
            "targets": np.zeros((rows, width), np.int32),
            "first": np.zeros(rows, np.int32),
        }
        if any(window.segments is not None for window in windows):
            batch["segments"] = np.zeros((rows, length), np.int32)
        for row, (tokens, scored, segments) in enumerate(windows):
            batch["tokens"][row, : len(tokens) - 1] = tokens[:-1]
            batch["targets"][row, : len(tokens) - scored] = tokens[scored:]
            batch["first"][row] = scored - 1
            if segments is not None:
                batch["segments"][row] = segments[-1] + 1  # padding attends to itself
                batch["segments"][row, : len(tokens) - 1] = segments[:-1]
        mine = rows_of(*self._share, rows)
        part = {name: value[mine.start : mine.stop] for name, value in batch.items()}
        return self._score(self._params, place(part, mesh.split_dim(self._mesh, 0)))

    def _rows(self, length: int) -> int:
        return mesh.batch_shards(self._mesh) * max(1, self._device_tokens // length)

    def _rounded(self, count: int) -> int:
        """The next of 16, 24, 32, 48, 64, 96, ... or n_ctx."""
        power = _power(max(count, SMALLEST))
        return min(self.n_ctx, power if count > power * 3 // 4 or power == SMALLEST else power * 3 // 4)


def _power_of_four(count: int) -> int:
    """The next of 16, 64, 256, ..."""
    power = _power(max(count, SMALLEST))
    return power if power.bit_length() % 2 else 2 * power


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(0, count - 1).bit_length()
