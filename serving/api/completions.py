"""POST /v1/completions."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from estimator.tokenization.tokenizer import Tokenizer
from serving.api import state
from serving.api.generate import Answer, Delta, Sample, ScoredToken, finite, prompt_tokens
from serving.api.reply import require_context, require_length, require_places, respond, sampling
from serving.api.schemas import CompletionBody
from serving.api.state import Server
from serving.loaded import LoadedModel
from serving.request import PromptScore
from serving.text import encode, start_of_document, token_text

router = APIRouter()
DEFAULT_TOKENS = 16  # OpenAI's


@router.post("/v1/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    """Continues prompts: texts, or lists of token ids."""
    server = state.of(request)
    return await respond(request, body, lambda model: CompletionReply(body, model, server))


class CompletionReply:
    """The form of a completion. Choices are ordered by prompt, then by sample."""

    def __init__(self, body: CompletionBody, model: LoadedModel, server: Server):
        self._body, self._model = body, model
        self._per_prompt = body.best_of or body.n
        prompts = body.prompts()
        text = f"{len(prompts):,} prompts with {self._per_prompt} answers each"
        require_places(len(prompts) * self._per_prompt, server, text, param="prompt")
        self._texts, self.samples = [], []
        for prompt in prompts:
            self._add(prompt, server)
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()),
            "model": model.key, "system_fingerprint": model.fingerprint,
        }  # fmt: skip

    def _add(self, prompt: str | list[int], server: Server) -> None:
        body, tokenizer = self._body, self._model.tokenizer
        ids = encode(tokenizer, prompt) if isinstance(prompt, str) else prompt or start_of_document(tokenizer)
        require_context(self._model, ids, param="prompt")
        # The end-of-text that stands for an empty prompt is no text.
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        self._texts.append(text)
        params, stop = sampling(
            body,
            self._model,
            max_tokens=require_length(DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens, server),
            stop_ids=frozenset(start_of_document(tokenizer)),
            logprobs=0 if body.logprobs is None and self._per_prompt > body.n else body.logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
        )
        for index in range(self._per_prompt):
            self.samples.append(Sample(ids, replace(params, sample_index=index), stop, offset=len(text)))

    def head(self) -> list[dict[str, Any]]:
        """The echoed prompts, unless their log-probabilities are wanted, which come with the first token."""
        if not self._body.echo or self._body.logprobs is not None:
            return []
        return [self._choice_chunk(i, self._text(i), None, None) for i in range(len(self.samples))]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        text, tokens = delta.text, delta.tokens
        if delta.prompt_score:
            text = self._text(delta.index) + text
            tokens = [*self._prompt_tokens(delta.index, delta.prompt_score), *tokens]
        logprobs = self._logprobs(tokens) if self._body.logprobs is not None else None
        return self._choice_chunk(delta.index, text, logprobs, delta.finish_reason)

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        chosen = []
        for first in range(0, len(answers), self._per_prompt):
            some = answers[first : first + self._per_prompt]
            if self._per_prompt > self._body.n:
                some = sorted(some, key=lambda answer: answer.mean_logprob, reverse=True)[: self._body.n]
            chosen += some
        choices = [self._choice(index, answer) for index, answer in enumerate(chosen)]
        return {**self._head, "choices": choices, "usage": usage}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        tokens = answer.tokens
        if answer.prompt_score:
            tokens = [*self._prompt_tokens(answer.index, answer.prompt_score), *tokens]
        return {
            "index": index,
            "text": (self._text(answer.index) if self._body.echo else "") + answer.text,
            "logprobs": self._logprobs(tokens) if self._body.logprobs is not None else None,
            "finish_reason": answer.finish_reason,
        }

    def _choice_chunk(self, index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "choices": [choice]}

    def _text(self, index: int) -> str:
        return self._texts[index // self._per_prompt]

    def _prompt_tokens(self, index: int, score: PromptScore) -> list[ScoredToken]:
        return prompt_tokens(self._model, self.samples[index].prompt, score, text=self._text(index))

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        return {
            "tokens": [token_text(tokenizer, token.id) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [None if token.logprob is None else alternatives(tokenizer, token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


def alternatives(tokenizer: Tokenizer, token: ScoredToken) -> dict[str, float]:
    """The likeliest tokens and the token itself, each under a name of its own."""
    values = dict(token.top)
    assert token.logprob is not None
    values.setdefault(token.id, token.logprob)
    names: dict[str, float] = {}
    for id_, logprob in values.items():
        name = token_text(tokenizer, id_)
        names[f"token_id:{id_}" if name in names else name] = finite(logprob)
    return names
