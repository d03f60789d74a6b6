"""A run as a model of lm-evaluation-harness (lm_eval 0.4.13), in the same process: all three kinds of requests."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from estimator.corpus.chat_template import jinja
from estimator.errors import UserError
from estimator.evaluation import requests as scored
from estimator.evaluation.requests import Request
from estimator.evaluation.scorer import Scorer
from estimator.evaluation.windows import blocks, cut
from estimator.generation import prompt_files
from estimator.generation.completion import Settings
from estimator.setup import Setup
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import run_dir

SEED = 1234  # of samples, for tasks that draw them


class RunLM(TemplateLM):
    """A run's newest checkpoint. max_length: tokens of a window; None is n_ctx."""

    def __init__(self, setup: Setup, *, max_length: int | None = None):
        """Raises UserError without a checkpoint, or for a vocabulary without end-of-text."""
        super().__init__()
        estimator = setup.estimator()
        estimator.require_checkpoint()
        self.tokenizer = tokenizers.load(setup.vocabulary())
        run_dir.check_vocabulary(setup.folder, self.tokenizer.digest)
        if self.tokenizer.end_of_text is None:
            raise UserError(f"{setup.folder}: the vocabulary has no end-of-text, which lm_eval puts before each text")
        self.step, params = estimator.restore()
        setup.note_other_function(partial(print, file=sys.stderr))
        n_ctx = setup.model_config.n_ctx
        if max_length is not None and not 1 <= max_length <= n_ctx:
            raise UserError(f"--max_length {max_length}: write a number from 1 to n_ctx, {n_ctx}")
        self.max_length, self.max_gen_toks = max_length or n_ctx, 256
        self._setup = setup
        self._scorer = Scorer(estimator, params, n_ctx=self.max_length)
        self._sampler = partial(
            estimator.spec("predict").predictor,  # type: ignore[arg-type]
            params,
            end_of_text=self.tokenizer.end_of_text,
            n_known=self.tokenizer.n_vocab,
        )
        self._samplers: list[Any] = []

    @property
    def eot_token_id(self) -> int:
        """Id of end-of-text, which also begins each text."""
        assert self.tokenizer.end_of_text is not None  # see __init__
        return self.tokenizer.end_of_text

    @property
    def tokenizer_name(self) -> str:
        """For lm_eval's caches of requests."""
        return self.tokenizer.digest

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; names of special tokens are read as such, as by transformers."""
        return self.tokenizer.encode(string, special=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # A context of white space alone has no tokens, because all of it belongs to the continuation.
        tokens = [(before or [self.eot_token_id], after) for _, before, after in requests]
        arrays = [Request(np.array([*before, *after], np.int32), len(before)) for before, after in tokens]
        found = scored.results(self._scorer, arrays)
        answers = [(result.logprob, result.is_greedy) for result in found]
        for (key, _, _), answer in zip(requests, answers, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The sum of the log-likelihoods of each whole text; 0 for an empty one."""
        texts = [request.args[0] for request in requests]
        tokens = [np.array([self.eot_token_id, *self.tok_encode(text)], np.int32) for text in texts]
        spans = [blocks(len(each), context=self.max_length) for each in tokens]
        pairs = zip(tokens, spans, strict=True)
        scores = self._scorer(window for each, own in pairs for window in cut(each, own))
        sums = []
        for text, own in zip(texts, spans, strict=True):
            sums.append(sum(float(next(scores).logprobs.sum(dtype=np.float64)) for _ in own))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), sums[-1])
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context up to a stop string, end-of-text, or the largest number of tokens."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(request.args[1])].append(number)
        answers = [""] * len(requests)
        for numbers in groups.values():
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._generated(contexts, requests[numbers[0]].args[1]), strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _generated(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        """One sample of each context, all with the same options."""
        if not self._samplers:
            self._samplers.append(self._sampler())
        options = normalize_gen_kwargs(options, self.max_gen_toks)
        length = min(options["max_gen_toks"], self.max_length - 1)
        stop = handle_stop_sequences(options.get("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        changes = {"stop": stop, "length": length, "num_samples": 1, "best_of": None}
        settings = Settings(
            temperature=options.get("temperature", 0.0), top_k=options.get("top_k", 0), top_p=options.get("top_p", 1.0)
        )
        prompts = [(self.tok_encode(text) or [self.eot_token_id])[-(self.max_length - length) :] for text in contexts]
        # Neighbors in a batch have similar lengths, and a sample does not depend on them.
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        generate = partial(self._samplers[0].generate, settings=settings, length=length, seed=SEED, with_logprobs=True)
        samples = prompt_files.complete(
            [prompts[number] for number in order],
            self.tokenizer,
            generate,
            self._setup.prediction.model_copy(update=changes),
        )
        texts = {number: sample.text for number, (sample,) in zip(order, samples, strict=True)}
        return [texts[number] for number in range(len(prompts))]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template of a chat model; none for others."""
        is_chat = self._setup.data.input == "chat" and chat_template is not False
        return (jinja(self.tokenizer) or "") if is_chat else ""
