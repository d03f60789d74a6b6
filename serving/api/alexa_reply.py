"""Models as the voice of Alexa skills."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial

from fastapi import APIRouter

from estimator.corpus.chat_files import Message
from serving import alexa
from serving.alexa import AlexaConfig, Turn
from serving.api.errors import ApiError
from serving.api.generate import Generation, Sample
from serving.api.reply import account, own_settings
from serving.api.state import Server
from serving.loaded import LoadedModel
from serving.registry import Unavailable
from serving.request import SamplingParams
from serving.text import chat_prompt, chat_stops

OWNER = "alexa"


def router(server: Server, config: AlexaConfig) -> APIRouter:
    """POST /alexa."""
    failures = (ApiError, Unavailable)
    return alexa.router(config, partial(_reply, server, config), clean=server.clean, failures=failures)


async def _reply(server: Server, config: AlexaConfig, key: str, turns: Sequence[Turn]) -> AsyncGenerator[str]:
    """The answer in pieces; closing the generator frees its slot."""
    async with server.registry.use(key) as model:
        ids, stops = chat_stops(model.tokenizer, model.template)
        defaults = model.defaults
        params = SamplingParams(max_tokens=config.max_tokens, **own_settings(defaults), stop_ids=ids)
        prompt = fitting(turns, model, room=model.engine.n_ctx - min(config.max_tokens, model.engine.n_ctx // 2))
        generation = Generation(model, [Sample(prompt, params, [*stops, *defaults.stop])], owner=OWNER)
        outcome = "gone"
        try:
            async for deltas in generation.deltas():
                for delta in deltas:
                    yield delta.text
            outcome = "done"
        except ApiError:
            outcome = "error"
            raise
        finally:
            generation.cancel()
            account(server, model, generation, outcome)


def fitting(turns: Sequence[Turn], model: LoadedModel, *, room: int) -> list[int]:
    """The prompt of a conversation without its oldest turns, if they do not fit; at least the end of the last one."""
    system = [Message("system", model.defaults.chat_system)] if model.defaults.chat_system else []
    messages = [Message(role, text) for role, text in turns]
    for first in range(len(messages)):
        if messages[first].role == "user":
            prompt = chat_prompt([*system, *messages[first:]], model.tokenizer, model.template)
            if len(prompt) <= room:
                return prompt
    prompt = chat_prompt(messages[-1:], model.tokenizer, model.template)
    if len(prompt) <= room or not model.template:
        return prompt[-room:]
    return [*prompt[:2], *prompt[2 + len(prompt) - room :]]  # the template's head of the message stays
