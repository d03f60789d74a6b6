"""The application: all routes of one server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serving.api import alexa_reply, chat, completions, dixie, errors, models, page, tokens
from serving.api.gate import Gate
from serving.api.state import Server


def create(server: Server) -> ASGIApp:
    """The ASGI application. Its registry is opened, and begins to load, at its start."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.open()
        poll = asyncio.create_task(server.registry.poll(server.config.reload)) if server.config.reload else None
        yield
        if poll:
            poll.cancel()
        await server.registry.close(0)

    described: dict[int | str, dict[str, Any]] = {
        "default": {"model": errors.ErrorBody, "description": "An error"}  # in place of FastAPI's 422, which none sends
    }
    app = FastAPI(title="GPT-2", lifespan=lifespan, docs_url=None, redoc_url=None, responses=described)
    app.state.server = server
    for routes in (completions, chat, models, tokens, dixie, page):
        app.include_router(routes.router)
    if server.config.alexa:
        app.include_router(alexa_reply.router(server, server.config.alexa))
    errors.install(app)
    gated: ASGIApp = Gate(app, server)
    if server.config.cors:
        gated = CORSMiddleware(gated, server.config.cors, allow_methods=["*"], allow_headers=["*"])
    return gated
