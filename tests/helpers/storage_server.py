"""Local buckets for tests: gcp-storage-emulator as Google Cloud Storage, behind a proxy that injects faults.

The proxy fails some requests at random with a fixed seed: server errors, reset connections, truncated bodies (with and
without a Content-Length), corrupt bytes, and lost responses.
"""

import contextlib
import http.client
import http.server
import json
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

BUCKET = "bucket"
_GCSFS_END = b"\n--==0==--"  # sent by gcsfs after an object's bytes
KINDS = ("429", "500", "503", "reset", "cut", "short", "changed", "lost", "slow")


class Faults:
    """Selects failing requests: a share `rate` of them, with faults from `kinds`; `always` is a status code for all.

    script: the faults of upcoming requests, "" for none. only: a substring of the URLs that may fail. made: the
    number of injected faults of each kind.
    """

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.rate, self.kinds, self.always, self.only = 0.0, KINDS, "", ""
        self.script: list[str] = []
        self.made: dict[str, int] = {}
        self.requests = 0

    def draw(self, address: str, *, media: bool) -> str:
        with self._lock:
            self.requests += 1
            if self.only not in address:
                return ""
            kind = self.always or (self.script.pop(0) if self.script else "")
            if not kind and self._random.random() < self.rate:
                kind = self._random.choice(self.kinds)
            if kind in ("short", "changed") and not media:
                kind = "503"  # only object data can be corrupted: other responses have no checksums
            if kind:
                self.made[kind] = self.made.get(kind, 0) + 1
            return kind


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards requests to the emulator. `backend` and `faults` are set by `serve`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body need not wait 40 ms for the client to confirm the headers
    backend: tuple[str, int]
    faults: Faults
    creating = threading.Lock()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _handle(self) -> None:
        body = self._body()
        if body.endswith(b"\r" + _GCSFS_END):  # the emulator would treat the \r as part of the line ending
            body = body.removesuffix(_GCSFS_END) + b"\r" + _GCSFS_END
        address = urlsplit(self.path)
        of_s3 = "/b/" not in address.path and "list-type" not in address.query and address.path.count("/") > 1
        media = self.command == "GET" and (of_s3 or "alt=media" in address.query or "/download/" in address.path)
        fault = self.faults.draw(f"{self.command} {self.path}", media=media)
        if fault == "slow":
            time.sleep(0.1)
        if fault == "reset":
            self._reset()
            return
        if fault.isdigit():
            message = {"error": {"code": int(fault), "message": f"fault {fault}"}}
            self._answer(int(fault), [("Content-Type", "application/json")], json.dumps(message).encode())
            return
        status, headers, content = self._passed_on(body)
        if fault == "lost":
            self._reset()
            return
        if fault == "changed" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "short":
            content = content[: len(content) // 2]
        self._answer(status, headers, content, cut=fault == "cut")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if "0" not in parse_qs(urlsplit(self.path).query).get("ifGenerationMatch", []):
            return self._request(self.command, self.path, body)
        with self.creating:  # the emulator ignores preconditions
            name = parse_qs(urlsplit(self.path).query).get("name", [""])[0]
            if not name:
                name = json.loads(body.split(b"\n\n")[1].split(b"\n--")[0])["name"]
            bucket = urlsplit(self.path).path.split("/b/")[1].split("/")[0]
            status, _, _ = self._request("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}", b"")
            if status == 200:
                return 412, [("Content-Type", "application/json")], b'{"error": {"code": 412, "message": "exists"}}'
            return self._request(self.command, self.path, body)

    def _request(self, method: str, path: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.backend, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        if status != 204:
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """Resets the connection without a response."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that disconnect


class Service(NamedTuple):
    """A running service: its address, its faults, and a function that empties all buckets and keeps only BUCKET."""

    address: str
    faults: Faults
    empty: Callable[[], None]


@contextlib.contextmanager
def serve() -> Iterator[Service]:
    """Serves Google Cloud Storage."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    port = free_port()
    emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    emulator.start()
    try:
        with proxied(("127.0.0.1", port)) as (address, faults):
            yield Service(address, faults, lambda: emulator.wipe(keep_buckets=True))
    finally:
        emulator.stop()


@contextlib.contextmanager
def serve_s3() -> Iterator[Service]:
    """Serves S3 with moto."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    moto.start()
    backend = moto.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*backend), **keys)

    def empty() -> None:
        with contextlib.closing(http.client.HTTPConnection(*backend)) as connection:
            connection.request("POST", "/moto-api/reset")
            connection.getresponse().read()
        client.create_bucket(Bucket=BUCKET)

    try:
        with proxied(backend) as (address, faults):
            yield Service(address, faults, empty)
    finally:
        moto.stop()


@contextlib.contextmanager
def proxied(backend: tuple[str, int]) -> Iterator[tuple[str, Faults]]:
    faults = Faults()
    proxy = Server(("127.0.0.1", 0), type("Handler", (Proxy,), {"backend": backend, "faults": faults}))
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", faults
    finally:
        proxy.shutdown()
        proxy.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(address: str) -> dict[str, str]:
    """Returns the environment variables that direct this repository and its libraries to the service."""
    return {"STORAGE_EMULATOR_HOST": address, "GPT2_STORAGE_SECONDS": "20"}


def s3_environment(address: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": address, "GPT2_STORAGE_SECONDS": "20", **keys}
