"""Requests under way, and the queue in which those of all owners wait their turn."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from models.gpt2.decode.drawing import Settings
from models.gpt2.decode.slots import Row
from serving.prefixes import Slot
from serving.request import (
    EngineStats,
    ErrorCode,
    Finish,
    Handle,
    QueueFull,
    Reason,
    SamplingParams,
)


@dataclass(eq=False)
class Request:
    """A request under way, times in seconds of the monotonic clock.

    seen: end of the prompt that the answer follows. window: the tokens that its slot begins with. slot: None while it
    waits and after its end. row: None while the slot lacks some of the window.
    """

    prompt: np.ndarray
    params: SamplingParams
    owner: str
    seed: int
    max_tokens: int
    timeout: float
    seen: np.ndarray
    window: np.ndarray
    handle: Handle
    submitted: float = field(default_factory=time.monotonic)
    answer: list[int] = field(default_factory=list)
    slot: Slot | None = None
    row: Row | None = None
    is_cancelled: bool = False
    cached: int = 0
    begun: float | None = None
    first_token: float | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the window is the prompt, whose tokens' log-probabilities are wanted."""
        is_prompt = not self.answer and len(self.window) == len(self.prompt)
        return self.params.prompt_logprobs is not None and is_prompt

    @property
    def left(self) -> int:
        """Tokens until its end, or until its context is full."""
        assert self.row
        return self.row.limit - self.row.made

    def begin_row(self, *, n_ctx: int) -> None:
        """The window is in the slot; now tokens are drawn, until the context is full at the latest."""
        assert self.slot
        params, made = self.params, len(self.answer)
        self.row = Row(
            self.slot.number,
            self.seed,
            params.sample_index,
            limit=min(self.max_tokens, made + n_ctx - len(self.window) + 1),
            stops=tuple(params.stop_ids),
            settings=settings(params),
            has_bias=bool(params.logit_bias),
            wants_logprob=params.logprobs is not None,
            wants_top=bool(params.logprobs),
            position=len(self.window),
            made=made,
        )

    def finish(self, reason: Reason, message: str, code: ErrorCode | None) -> Finish:
        now, since = time.monotonic(), self.submitted
        finish = Finish(
            reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.answer),
            cached_tokens=self.cached,
            queue_seconds=(self.begun or now) - since,
            first_token_seconds=None if self.first_token is None else self.first_token - since,
            total_seconds=now - since,
            message=message,
            code=code,
        )
        self.handle.deliver(finish)
        return finish


def settings(params: SamplingParams) -> Settings:
    """All but the bias."""
    return Settings(*(getattr(params, name) for name in Settings._fields[:7]))


class FairQueue:
    """Requests of owners, who are served in turn. Not safe for threads without the engine's lock."""

    def __init__(self, *, most: int, most_of_one: int):
        self._most, self._most_of_one = most, most_of_one
        self._owners: OrderedDict[str, deque[Request]] = OrderedDict()  # the next one first

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))

    def __iter__(self) -> Iterator[Request]:
        for queue in self._owners.values():
            yield from queue

    def put(self, request: Request, *, retry_after: int) -> None:
        """Raises QueueFull."""
        if len(self) >= self._most:
            raise QueueFull(f"all {self._most} places of the queue are taken; try again later", retry_after=retry_after)
        if len(self._owners.get(request.owner, ())) >= self._most_of_one:
            message = f"{self._most_of_one} requests of yours are waiting, as many as may; try again later"
            raise QueueFull(message, retry_after=retry_after)
        self._owners.setdefault(request.owner, deque()).append(request)

    def take(self, waits: Callable[[Request], bool]) -> Request | None:
        """The first request of the next owner, whose turn comes again after all others'; of those that `waits` not."""
        for owner in list(self._owners):
            queue = self._owners[owner]
            self._owners.move_to_end(owner)
            if not waits(queue[0]):
                request = queue.popleft()
                if not queue:
                    del self._owners[owner]
                return request
        return None

    def drop(self, ends: Callable[[Request], bool]) -> None:
        """Removes the requests that end."""
        for owner, queue in list(self._owners.items()):
            kept = deque(request for request in queue if not ends(request))
            self._owners[owner] = kept
            if not kept:
                del self._owners[owner]


class Tally:
    """Counts and times of an engine."""

    def __init__(self):
        self.finished: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
        self.prompt = self.computed = self.tokens = 0
        self.busy = 0.0
        self._firsts, self._first, self._laters, self._later = 0, 0.0, 0, 0.0

    def add(self, finish: Finish) -> None:
        self.finished[finish.reason] += 1
        if finish.first_token_seconds is not None:
            self._firsts += 1
            self._first += finish.first_token_seconds
            self._laters += finish.completion_tokens - 1
            self._later += finish.total_seconds - finish.first_token_seconds

    def retry_after(self) -> int:
        """Whole seconds until a request ends, at the pace so far, 1 to 120."""
        finished = self.finished["stop"] + self.finished["length"]
        return int(np.clip(math.ceil(self.busy / finished if finished else 1), 1, 120))

    def stats(self, *, queued: int, running: int, slots: int, prefix_bytes: int) -> EngineStats:
        return EngineStats(
            queued=queued,
            running=running,
            slots=slots,
            finished=dict(self.finished),
            prompt_tokens=self.prompt,
            computed_prompt_tokens=self.computed,
            completion_tokens=self.tokens,
            first_token_seconds=self._first / max(1, self._firsts),
            token_seconds=self._later / max(1, self._laters),
            prefix_bytes=prefix_bytes,
        )
