"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}, whatever they come from."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serving.api.schemas import EXPECTED, BodyError
from serving.registry import Registry, Unavailable, UnknownModel
from serving.request import EngineClosed, Finish, QueueFull, RequestError

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class _Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What an error's body holds, for the description of the routes; `ApiError.body` makes it."""

    error: _Fault


class ApiError(Exception):
    """An answer other than success. retry_after: whole seconds, 1 to 120: clients give up on others."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        default = "invalid_request_error" if self.status < 500 else "server_error"
        kind = TYPES.get(self.status, default)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        if self.retry_after is not None:
            return {"retry-after": str(min(max(self.retry_after, 1), 120))}
        return {"x-should-retry": "false"} if self.status in (409, 500, 503) else {}


class ClientGone(Exception):
    """The client has closed the connection, so nobody reads the answer."""


class Json(Response):
    """JSON that stays valid whatever text a model or a client writes: lone surrogates become question marks."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump(content)


# Clients that read events with str.splitlines, as httpx.iter_lines does, take these for line ends.
LINE_ENDS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})


def dump(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(LINE_ENDS).encode("utf-8", "replace")


def response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    return Json(error.body, error.status, {**error.headers, **(headers or {})})


def of_engine(error: RequestError | QueueFull | EngineClosed) -> ApiError:
    """The answer to a request that an engine did not take."""
    match error:
        case RequestError():
            return ApiError(400, str(error), param=error.param, code=error.code)
        case QueueFull():
            return ApiError(429, str(error), code="queue_full", retry_after=error.retry_after)
    return ApiError(503, "the model has been closed; ask again", code="model_closed", retry_after=1)


def of_finish(finish: Finish) -> ApiError:
    """The answer to a request that ended in an error."""
    match finish.code:
        case "timeout":
            return ApiError(503, finish.message or "the request took too long", code="timeout")
        case "shutdown":
            return ApiError(503, finish.message or "the server is shutting down", code="shutdown", retry_after=5)
    return ApiError(500, finish.message or "the model could not answer", code="internal")


def of_registry(error: UnknownModel | Unavailable, registry: Registry) -> ApiError:
    """The answer to a request for a model that is not there."""
    if isinstance(error, UnknownModel):
        message = f"model {error} does not exist; available: {_names(registry)}"
        return ApiError(404, message, param="model", code="model_not_found")
    return ApiError(503, str(error), param="model", code="model_unavailable", retry_after=error.retry_after)


def _names(registry: Registry) -> str:
    return ", ".join(list(registry.entries)[:20])


def _not_json(fault: dict[str, Any], body: str) -> str:
    """Where and why a body is not JSON. fault: FastAPI's, whose place is a character of the body."""
    at = fault["loc"][-1]
    place = f"line {body.count(chr(10), 0, at) + 1}, column {at - body.rfind(chr(10), 0, at)}"
    return f"the body is not valid JSON: {place}: {fault['ctx']['error']}"


def _unreadable(cause: BaseException | None) -> str:
    """Why a body could not be read, where FastAPI says only that it could not; "" for other errors."""
    match cause:
        case UnicodeDecodeError():
            return f"the body is not UTF-8 at byte {cause.start}; send JSON in UTF-8"
        case RecursionError():
            return "the body's lists and objects are nested too deeply; send flat JSON"
        case ValueError():
            return f"the body could not be read as JSON: {cause}"
    return ""


def install(app: FastAPI) -> None:
    """Makes every error of the application an answer in this form."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return response(error)

    @app.exception_handler(UnknownModel)
    @app.exception_handler(Unavailable)
    async def on_model(request: Request, error: UnknownModel | Unavailable) -> Response:
        return response(of_registry(error, request.app.state.server.registry))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body" and not str(part).startswith("function-")]
        if first["type"] == "json_invalid":
            return response(ApiError(400, _not_json(first, str(error.body)), code="invalid_json"))
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, BodyError):
            return response(ApiError(400, str(cause), param=cause.param))
        if not place:
            return response(ApiError(400, f"the body should be one JSON object: {first['msg']}"))
        for depth, part in enumerate(place, start=1):
            is_one_of_several = first["loc"][-1] != part  # pydantic adds the type that it tried
            if part in EXPECTED and first["type"] != "missing" and is_one_of_several:
                name = ".".join(place[:depth])
                return response(ApiError(400, f"{name}: expected {EXPECTED[part]}", param=place[0]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = "missing"
        return response(ApiError(400, f"{'.'.join(place)}: {message}", param=place[0]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        messages = {404: f"{request.url.path} is no route of this server; see docs/serving.md",
                    405: f"{request.url.path} does not accept {request.method}; see docs/serving.md"}  # fmt: skip
        message = messages.get(error.status_code) or _unreadable(error.__cause__) or str(error.detail)
        return response(ApiError(error.status_code, message), error.headers)

    @app.exception_handler(ClientGone)
    async def on_gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        return response(ApiError(500, "internal error; the server's log says more", code="internal"))
