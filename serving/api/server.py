"""uvicorn as this program runs it: clear limits on connections, and an orderly end with code 0."""

import asyncio
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from estimator.errors import UserError
from serving.api import app, errors
from serving.api.errors import ApiError
from serving.api.state import Server

KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection, so that none is closed in the moment of its use
GRACE_SECONDS = 5  # for answers that the drain has ended to be sent


def serve(server: Server) -> int:
    """Serves until SIGTERM or SIGINT; prints the address as the first line. Returns the exit code."""
    config = server.config
    listener = _listen(config.host, config.port)
    uvicorn_config = uvicorn.Config(
        app.create(server),
        http=_protocol(server),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(config.drain) + GRACE_SECONDS,
        server_header=False,
        h11_max_incomplete_event_size=65536,
        lifespan="on",
    )
    draining = _Draining(uvicorn_config, server)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn listens to them a moment after the address is printed
        signal.signal(number, draining.handle_exit)
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    draining.run(sockets=[listener])
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(0)  # a model that is being loaded or compiled is not waited for
    return 0


class _Draining(uvicorn.Server):
    """Ends running requests after the drain's time or a second signal, so that each gets an answer or an error."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server
        self._is_hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drains; a second signal ends the drain. uvicorn would cut connections off and print tracebacks."""
        self._is_hurried = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        drain.cancel()

    async def _drain(self) -> None:
        close = self._server.registry.close
        draining = asyncio.create_task(close(self._server.config.drain))
        while not (self._is_hurried or draining.done()):
            await asyncio.wait({draining}, timeout=0.1)
        await (close(0) if self._is_hurried else draining)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY for a socket that names its protocol; else an answer's body may wait 40 ms.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--host {host} --port {port}: {reason[0].lower()}{reason[1:]}; choose others") from None
    return listener


def _protocol(server: Server) -> type[H11Protocol]:
    """HTTP/1.1 with a time limit for the head of a request and a limit of connections."""
    limit, seconds = server.config.max_connections, server.config.receive_timeout
    refusal = ApiError(503, f"{limit} connections are open already", code="too_many_connections", retry_after=5)
    body = errors.dump(refusal.body)
    refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    refused += b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    class Limited(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limit:
                transport.write(refused)
                transport.close()
                return
            self._deadline = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            is_reading_head = self.cycle is None or self.cycle.response_complete
            if not is_reading_head:
                self._stop_clock()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _stop_clock(self) -> None:
            if self._deadline:
                self._deadline.cancel()
                self._deadline = None

    return Limited
