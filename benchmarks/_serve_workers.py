"""The decode loop and the engine with the same weights in one process, for the speed part of the serve benchmark."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks import _workers
from benchmarks._decode_workers import Ours


class Served(Ours):
    """`generate` is the decode loop; `serve` the engine, with as many clients as a batch has rows."""

    def load(self, variant: str, device: Any = None) -> Any:
        from serving.engine import Engine
        from serving.request import EngineConfig

        sampler = super().load(variant, device)
        self.engines = getattr(self, "engines", {})
        self.engines[variant] = Engine(sampler, EngineConfig(slots=16))
        self.engines[variant].warm()
        return sampler

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close(drain=False)

    def serve(self, variant: str, batch: int, round_: int) -> dict[str, Any]:
        """Seconds until all answers are whole, and until each first token. Prompts are new in each round."""
        prompts = self._tokens(round_, batch, self.prompt)
        start = time.perf_counter()
        with ThreadPoolExecutor(batch) as clients:
            finished = list(clients.map(partial(self._ask, variant, self.length), prompts))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "first": sorted(finish.first_token_seconds for finish in finished)}

    def shared_beginning(self, variant: str, tokens: int, round_: int) -> list[float]:
        """Seconds to the first token of two prompts that begin with the same tokens, and end with 16 of their own."""
        begin = self._tokens(round_, 0, tokens)
        return [self._ask(variant, 1, [*begin[0], *[i] * 16]).first_token_seconds for i in (7, 8)]

    def _tokens(self, round_: int, batch: int, count: int) -> list[list[int]]:
        """Unlike those of other rounds and batches."""
        n_vocab = min(self.size.n_vocab, 250)
        return np.random.default_rng((round_ + 1, batch)).integers(0, n_vocab, (max(1, batch), count)).tolist()

    def _ask(self, variant: str, length: int, prompt: list[int]) -> Any:
        from serving.request import SamplingParams

        tokens, finish = self.engines[variant].submit(prompt, SamplingParams(length, temperature=0)).result()
        assert len(tokens) == length
        return finish


SIDES = {"ours": Served}

if __name__ == "__main__":
    _workers.serve(SIDES[sys.argv[1]](**json.loads(sys.argv[2])))
