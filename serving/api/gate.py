"""What every request passes before a route: keys, the origin of browsers, the body's size and time, and the counts.

Pure ASGI: Starlette's BaseHTTPMiddleware would hide a client's going away from the routes.
"""

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import errors
from serving.api.errors import ApiError
from serving.api.state import Server
from serving.api_keys import ApiKey

# /alexa verifies the signatures of Amazon, which has no key.
OPEN_ROUTES = ("/health", "/alexa")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, server: Server):
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # the client went away

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        if scope["method"] == "HEAD":  # for the routes a GET, whose body the web server leaves out
            scope = {**scope, "method": "GET"}
        try:
            headers = Headers(scope=scope)
            self._admit(scope, headers)
            receive = await self._with_body(headers, receive)
            _read_as_json(scope, headers)
            await self._app(scope, receive, counted)
        except ApiError as error:
            with contextlib.suppress(h11.LocalProtocolError):  # uvicorn has answered a malformed body already
                await errors.response(error, _challenge(scope, error))(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._server.metrics.requests.labels(route, str(status)).inc()
            self._server.metrics.request_seconds.labels(route).observe(time.monotonic() - began)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Checks the origin and the key. Raises ApiError 401 or 403."""
        path, keys = scope["path"], self._server.keys
        self._check_origin(headers)
        if keys is None or path in OPEN_ROUTES:
            return
        secret = _presented(headers)
        if not secret:
            raise ApiError(401, "this server needs an API key; send Authorization: Bearer KEY", code="missing_api_key")
        key: ApiKey | None = keys.find(secret)
        if key is None:
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")
        if path.startswith("/admin") and not key.is_admin:
            raise ApiError(403, f"the key {key.name} may not change models", code="not_admin")
        scope["gpt2.owner"] = key.name

    def _check_origin(self, headers: Headers) -> None:
        """Keeps pages of other sites from using a server without keys through a visitor's browser."""
        host, origin, cors = headers.get("host", ""), headers.get("origin"), self._server.config.cors
        if self._server.keys is None and not _is_loopback(host) and not _is_loopback(self._server.config.host, host):
            raise ApiError(403, f"without API keys this server answers to localhost, not to {host[:100]!r}")
        if origin and _netloc(origin) != host and origin not in cors and "*" not in cors:
            raise ApiError(403, f"pages of {origin[:100]} may not use this server; add it to cors to allow them")

    async def _with_body(self, headers: Headers, receive: Receive) -> Receive:
        """Reads the body; returns a `receive` that gives it whole, then what else comes: the client's going away."""
        config = self._server.config
        if (coding := headers.get("content-encoding", "identity").lower()) not in ("identity", ""):
            raise ApiError(415, f"the body is encoded as {coding[:40]!r}; send it without Content-Encoding")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > config.max_body_bytes:
            raise _too_large(config.max_body_bytes)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(config.receive_timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > config.max_body_bytes:
                        raise _too_large(config.max_body_bytes)
        except TimeoutError:
            raise ApiError(408, f"the request did not arrive within {config.receive_timeout:g} s") from None
        is_given = False

        async def replay() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request is larger than {limit:,} bytes (max_body_bytes); divide it", code="too_large")


def _presented(headers: Headers) -> str:
    """The secret of a Bearer or, from a browser's own dialog, of a Basic authorization."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("x-api-key", "")


def _challenge(scope: Scope, error: ApiError) -> Mapping[str, str]:
    """Lets a browser ask for the key of the page; clients of the API are not asked."""
    if error.status != 401:
        return {}
    return {"www-authenticate": 'Basic realm="API key as the password"' if scope["path"] == "/" else "Bearer"}


def _is_loopback(host: str, given: str | None = None) -> bool:
    """Whether a Host header names this machine. given: a header that has to name `host` in place of that."""
    name = _hostname(host)
    if given is not None:
        return bool(name) and name == _hostname(given)
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str:
    """The name in a Host header, without its port; "" for one that is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """What a Host header of the origin's server would be; None for one that is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _read_as_json(scope: Scope, headers: Headers) -> None:
    """Bodies without a type, or with the one that curl -d writes, are read as JSON: no route takes another."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] == "POST" and kind in ("", "application/x-www-form-urlencoded", "text/plain"):
        others = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
        scope["headers"] = [*others, (b"content-type", b"application/json")]
