"""The routes of xeb/gpt-2's server, so that its clients, such as Alexa skills, keep working.

Its settings are kept: 120 tokens, temperature 0.3, top_p 0.9. Its penalty multiplied the scores of repeated tokens by
0.85, which favors those with negative scores; the same penalty is applied here as Keskar et al. (2019) define it.
"""

import asyncio
import shutil

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from serving.api import state
from serving.api.errors import Json
from serving.api.generate import Generation, Sample
from serving.api.reply import finished, require_context
from serving.api.schemas import Body, Text
from serving.api.sse import while_connected
from serving.registry import State
from serving.request import SamplingParams
from serving.text import encode, start_of_document

router = APIRouter()
LENGTH, TEMPERATURE, TOP_P, PENALTY = 120, 0.3, 0.9, 1 / 0.85


class InvocationBody(Body):
    """POST /invocations and /prime."""

    model_key: str = Field("chatbot", max_length=200)
    raw_text: Text = ""


@router.post("/invocations")
async def invocations(body: InvocationBody, request: Request) -> Response:
    """The continuation alone, as plain text, through the model's sanitizer; UNKNOWN for a model that is not served."""
    server = state.of(request)
    if body.model_key not in server.registry.entries:
        return PlainTextResponse("UNKNOWN")
    return PlainTextResponse(await while_connected(request, invoke(server, body.model_key, body.raw_text, request)))


async def invoke(server: state.Server, key: str, text: str, request: Request) -> str:
    """Continues a text with a model's own settings and cleans the answer."""
    async with server.registry.use(key) as model:
        prompt = encode(model.tokenizer, text.removesuffix("\n"))[-model.engine.n_ctx :]
        require_context(model, prompt, param="raw_text")
        params = SamplingParams(
            max_tokens=LENGTH,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            repetition_penalty=PENALTY,
            stop_ids=frozenset(start_of_document(model.tokenizer)),
        )
        generation = Generation(model, [Sample(prompt, params)], owner=state.owner(request))
        answers = await finished(server, model, generation)
        return server.clean(key, answers[0].text)


@router.post("/prime")
async def prime(body: InvocationBody, request: Request) -> Response:
    """Begins to load a model."""
    server = state.of(request)
    if body.model_key not in server.registry.entries:
        return PlainTextResponse("UNKNOWN")
    server.registry.request("load", body.model_key)
    return PlainTextResponse(f"primed {body.model_key}")


@router.get("/ping")
async def ping() -> Response:
    return PlainTextResponse("Pong!")


@router.get("/models/list")
async def models(request: Request) -> Response:
    """Models with the number of requests they answered, and the one that was used last."""
    entries = list(state.of(request).registry.entries.values())
    ready = [entry for entry in entries if entry.state is State.READY]
    active = max(ready, key=lambda entry: entry.last_use).config.key if ready else None
    listed = [{"model_key": entry.config.key, "num_inferences": entry.requests} for entry in entries]
    return Json({"models": listed, "active_model": {"key": active}})


@router.get("/gputemp")
async def gpu_temperatures() -> Response:
    """The temperature of each NVIDIA GPU, as "45C"; an empty list without one."""
    program = shutil.which("nvidia-smi")
    if not program:
        return Json([])
    process = await asyncio.create_subprocess_exec(
        program, "--query-gpu=temperature.gpu", "--format=csv,noheader",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    return Json([f"{line.strip()}C" for line in out.decode().splitlines() if line.strip().isdigit()])
