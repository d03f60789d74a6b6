"""Server-sent events, as clients of OpenAI read them, and what a client's going away does."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.api import errors
from serving.api.errors import ApiError, ClientGone

T = TypeVar("T")
KEEP_ALIVE_SECONDS = 15  # proxies close connections that are silent for longer
SEND_SECONDS = 60  # for a client that does not read what it asked for
DONE = b"data: [DONE]\n\n"


async def gone(receive: Receive) -> None:
    """Returns when the client closes its connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(
    request: Request, work: Awaitable[T], *, discard: Callable[[T], None] = lambda result: None
) -> T:
    """The result of some work, which is cancelled when the client goes away; then raises ClientGone.

    discard: takes a result that came all the same.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and not task.exception():
                discard(task.result())


class EventStream(Response):
    """Sends each object of `chunks` as an event, then [DONE]; an ApiError ends the stream as an event of its own.

    close: called once, before the last byte: frees what the stream holds, and counts; "done", "error" or "gone".
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[Any], *, close: Callable[[str], None]):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._close = chunks, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(gone(receive))
        outcome = "gone"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with contextlib.aclosing(self._events(leaving)) as events:
                    async for data in events:
                        await self._send(send, data)
                outcome, last = "done", DONE
            except ApiError as error:
                outcome, last = "error", b"data: " + errors.dump(error.body) + b"\n\n"
            self._close(outcome)  # first: a client may close the connection as soon as it has read the end
            outcome = ""
            await self._send(send, last, more=False)
        except (ClientGone, TimeoutError):
            pass  # there is nobody to answer
        finally:
            leaving.cancel()
            if outcome:
                self._close(outcome)
            await self._chunks.aclose()

    async def _events(self, leaving: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        """The chunks as bytes, comments where there is none for long. Raises ClientGone."""
        pending = asyncio.ensure_future(anext(self._chunks, None))
        try:
            while True:
                await asyncio.wait({pending, leaving}, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    raise ClientGone
                if not pending.done():
                    yield b": keep-alive\n\n"
                    continue
                if (chunk := pending.result()) is None:
                    return
                yield b"".join(b"data: " + errors.dump(event) + b"\n\n" for event in chunk)
                pending = asyncio.ensure_future(anext(self._chunks, None))
        finally:
            if not pending.done():
                pending.cancel()
                await asyncio.wait({pending})

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        await asyncio.wait_for(send({"type": "http.response.body", "body": data, "more_body": more}), SEND_SECONDS)
