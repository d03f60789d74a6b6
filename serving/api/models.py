"""GET /v1/models, /health, /ready, /metrics, and the administration of models under /admin."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.api import errors, state
from serving.api.errors import ApiError, Json
from serving.registry import Entry, Registry, State, UnknownModel

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Answers while the process runs; needs no key."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """200 once every model that is loaded at start has been tried, and one can answer; 503 before, and at the end."""
    registry = state.of(request).registry
    entries = list(registry.entries.values())
    is_loading = any(entry.config.load == "start" and entry.is_queued for entry in entries)
    is_loading |= any(entry.state is State.LOADING and not entry.requests for entry in entries)
    can_answer = any(entry.state is not State.FAILED for entry in entries)
    is_ready = can_answer and not is_loading and not registry.is_closing
    states = {entry.config.key: entry.state for entry in entries}
    return Json({"ready": is_ready, "models": states}, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(state.of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """All models, loaded or not."""
    registry = state.of(request).registry
    return Json({"object": "list", "data": [_described(entry) for entry in registry.entries.values()]})


@router.get("/v1/models/{key:path}")
async def model(key: str, request: Request) -> Response:
    """One model."""
    return Json(_described(_entry(state.of(request).registry, key)))


def _described(entry: Entry) -> dict[str, Any]:
    loaded = entry.version.model if entry.version else None
    return {
        "id": entry.config.key,
        "object": "model",
        "created": loaded.created if loaded else 0,
        "owned_by": "gpt2",
        "state": entry.state,
        "step": loaded.step if loaded else None,
        "max_model_len": loaded.engine.n_ctx if loaded else None,
        "n_vocab": loaded.engine.n_vocab if loaded else None,
        # How chats become prompts: by special tokens that the model was trained with, or as a plain transcript.
        "chat_format": ("template" if loaded.template else "transcript") if loaded else None,
        "error": entry.error or None,
    }


def _entry(registry: Registry, key: str) -> Entry:
    if key not in registry.entries:
        raise errors.of_registry(UnknownModel(key), registry)
    return registry.entries[key]


@router.get("/admin/models")
async def states(request: Request) -> Response:
    """The state machine of every model, and the memory."""
    registry = state.of(request).registry
    described = [entry.describe() for entry in registry.entries.values()]
    return Json({"models": described, "memory_bytes": registry.memory_bytes, "used_bytes": registry.used_bytes})


@router.post("/admin/models/{key:path}/{task}")
async def change(key: str, task: str, request: Request) -> Response:
    """load, unload, or swap (to the newest checkpoint); answers when it is done. No request is dropped."""
    registry = state.of(request).registry
    entry = _entry(registry, key)
    match task:
        case "load" | "swap" | "unload":
            error = await registry.request(task, key)
        case _:
            raise ApiError(404, f"{task[:40]} is no task; write load, swap or unload")
    if error:
        raise ApiError(503, f"model {key}: {error}", code="model_unavailable")
    return Json(entry.describe())
