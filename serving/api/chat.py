"""POST /v1/chat/completions."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from estimator.corpus.chat_files import Message
from serving.api import state
from serving.api.generate import Answer, Delta, Sample, ScoredToken, finite
from serving.api.reply import require_context, require_length, require_places, respond, sampling
from serving.api.schemas import ChatBody
from serving.api.state import Server
from serving.loaded import LoadedModel
from serving.text import chat_prompt, chat_stops, token_text

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, request: Request) -> Response:
    """Continues a conversation with a message of the assistant."""
    server = state.of(request)
    return await respond(request, body, lambda model: ChatReply(body, model, server))


class ChatReply:
    """The form of a chat's answer."""

    def __init__(self, body: ChatBody, model: LoadedModel, server: Server):
        self._body, self._model = body, model
        require_places(body.n, server, f"n: {body.n} answers", param="n")
        messages = [Message("system" if m.role == "developer" else m.role, m.text) for m in body.messages]
        if model.defaults.chat_system and messages[0].role != "system":
            messages.insert(0, Message("system", model.defaults.chat_system))
        prompt = chat_prompt(messages, model.tokenizer, model.template)
        require_context(model, prompt, param="messages")
        length = server.config.chat_max_tokens if body.length is None else require_length(body.length, server)
        # Else the beginning of the conversation would be cut off to make room.
        length = min(length, max(1, model.engine.n_ctx - len(prompt)))
        stop_ids, stops = chat_stops(model.tokenizer, model.template)
        params, stop = sampling(
            body,
            model,
            max_tokens=length,
            stop_ids=stop_ids,
            stops=stops,
            logprobs=body.top_logprobs if body.logprobs else None,
        )
        self.samples = [Sample(prompt, replace(params, sample_index=index), stop) for index in range(body.n)]
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model.key,
            "system_fingerprint": model.fingerprint,
        }  # fmt: skip

    def head(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        return [self._chunk(index, role, None, None) for index in range(len(self.samples))]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        content = {"content": delta.text} if delta.text or not delta.finish_reason else {}
        logprobs = self._logprobs(delta.tokens) if self._body.logprobs else None
        return self._chunk(delta.index, content, logprobs, delta.finish_reason)

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.tokens) if self._body.logprobs else None,
                "finish_reason": answer.finish_reason,
            }
            for answer in answers
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        return {"content": [self._entry(token) for token in tokens], "refusal": None}

    def _entry(self, token: ScoredToken) -> dict[str, Any]:
        top = [self._named(id_, logprob) for id_, logprob in token.top[: self._body.top_logprobs]]
        return {**self._named(token.id, token.logprob or 0.0), "top_logprobs": top}

    def _named(self, id_: int, logprob: float) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        text = token_text(tokenizer, id_)
        return {"token": text, "logprob": finite(logprob), "bytes": list(tokenizer.decode_bytes([id_]))}
