"""Authentication, and limits on the resources that one client can use."""

import base64
import gzip
import http.client
import json
import socket
import stat
import time

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

import httpx
from helpers.serving import CountingEngine, Models, loaded, serving

from estimator.errors import UserError
from serving import api_keys

BODY = {"model": "a", "prompt": "a", "max_tokens": 1}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.txt"
    return path, api_keys.add(str(path), "ann"), api_keys.add(str(path), "root", is_admin=True)


def test_keys_are_kept_as_hashes_for_their_owner_only(keys):
    path, secret, _ = keys
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = api_keys.read(str(path))
    assert held.find(secret).name == "ann"
    assert held.find(secret + "x") is None
    assert held.find("") is None
    assert held.find("\udcff") is None
    with pytest.raises(UserError, match="has a key named ann"):
        api_keys.add(str(path), "ann")
    for name in ("a b", "#a", "a\x00", "a\udcff"):
        with pytest.raises(UserError, match="without blanks"):
            api_keys.add(str(path), name)
    for text, fault in (("ann abc\n", "line 1"), ("# nothing\n", "has no key"), ("a " + "0" * 64 + " boss", "line 1")):
        path.write_text(text)
        with pytest.raises(UserError, match=fault):
            api_keys.read(str(path))


def test_keys_files_from_editors_are_read_and_extended(tmp_path):
    path = tmp_path / "keys.txt"
    first = api_keys.add(str(path), "ann")
    path.write_bytes(b"\xef\xbb\xbf# ours\r\n" + path.read_bytes().rstrip())
    second = api_keys.add(str(path), "bob")
    held = api_keys.read(str(path))
    assert (held.find(first).name, held.find(second).name) == ("ann", "bob")
    path.write_bytes("ann".encode("utf-16"))
    for use in (api_keys.read, lambda path: api_keys.add(path, "eve")):
        with pytest.raises(UserError, match="byte 0 is not UTF-8"):
            use(str(path))


def test_without_a_key_nothing_but_health_answers(keys):
    path, secret, admin = keys
    with serving(Models(a=loaded("a")), keys=api_keys.read(str(path))) as client:
        schema = client.get("/openapi.json", headers={"authorization": f"Bearer {secret}"}).json()
        routes = [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]
        assert ("POST", "/v1/completions") in routes
        assert ("POST", "/invocations") in routes
        for method, route in [
            *routes,
            ("GET", "/"),
            ("GET", "/openapi.json"),
            ("GET", "/nothing"),
            ("GET", "//health"),
        ]:
            answer = client.request(method, route.replace("{", "").replace("}", ""))
            assert answer.status_code == (200 if route == "/health" else 401), route
            assert answer.json().get("error", {"code": "missing_api_key"})["code"] == "missing_api_key"
        assert "Basic" in client.get("/").headers["www-authenticate"]
        wrong = client.post("/v1/completions", json=BODY, headers={"authorization": "Bearer no"})
        assert wrong.json()["error"]["code"] == "invalid_api_key"
        basic = base64.b64encode(f"any:{secret}".encode()).decode()
        for headers in (
            {"authorization": f"Bearer {secret}"}, {"authorization": f"bearer  {secret}"}, {"x-api-key": secret},
            {"authorization": f"Basic {basic}"},
        ):  # fmt: skip
            assert client.post("/v1/completions", json=BODY, headers=headers).status_code == 200
            assert client.get("/admin/models", headers=headers).status_code == 403
        assert client.get("/admin/models", headers={"authorization": f"Bearer {admin}"}).status_code == 200
        assert client.get("/v1/models", headers={"authorization": "Basic !!"}).status_code == 401


def test_without_keys_pages_of_other_sites_cannot_use_the_server():
    with serving(Models(a=loaded("a"))) as client:
        port = client.base_url.port
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert client.post("/v1/completions", json=BODY, headers={"host": host}).status_code == 200
        for host in ("rebound.example", "[", "[::1", "[a]"):
            assert client.post("/v1/completions", json=BODY, headers={"host": host}).status_code == 403, host
        origins = {f"http://127.0.0.1:{port}": 200, "https://evil.example": 403, "null": 403, "http://[": 403}
        for origin, status in origins.items():
            answer = client.post("/v1/completions", json=BODY, headers={"origin": origin})
            assert answer.status_code == status, origin
        assert "access-control-allow-origin" not in client.get("/health").headers


def test_cors_for_the_origins_that_are_named():
    with serving(Models(a=loaded("a")), cors=["https://app.example"]) as client:
        headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
        answer = client.options("/v1/completions", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        answer = client.post("/v1/completions", json=BODY, headers={"origin": "https://app.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert client.post("/v1/completions", json=BODY, headers={"origin": "https://other"}).status_code == 403


def test_bodies_of_curl_are_read():
    with serving(Models(a=loaded("a"))) as client:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", None):
            headers = {"content-type": kind} if kind else {}
            answer = client.post("/v1/completions", content=json.dumps(BODY), headers=headers)
            assert answer.status_code == 200, kind


def test_an_encoded_body_is_415():
    with serving(Models(a=loaded("a"))) as client:
        body = gzip.compress(json.dumps(BODY).encode())
        answer = client.post("/v1/completions", content=body, headers={"content-encoding": "gzip"})
        assert answer.status_code == 415
        assert "send it without Content-Encoding" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_413():
    with serving(Models(a=loaded("a")), max_body_bytes=1000) as client:
        answer = client.post("/v1/completions", json=BODY | {"user": "x" * 2000})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        pieces = (b" " * 100 for _ in range(20))
        assert client.post("/v1/completions", content=pieces).status_code == 413
        assert client.post("/v1/completions", json=BODY).status_code == 200


def connection(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.base_url.port), timeout=20)


def status(kept: socket.socket) -> int:
    """The status of one answer, all of which is read: head and body may come apart."""
    with http.client.HTTPResponse(kept) as answer:
        answer.begin()
        answer.read()
        return answer.status


def test_slow_clients_lose_their_connection_and_cost_no_other():
    with serving(Models(a=loaded("a")), receive_timeout=0.5) as client:
        silent, dripping, slow_body = connection(client), connection(client), connection(client)
        dripping.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        slow_body.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{")
        assert client.post("/v1/completions", json=BODY).status_code == 200
        answer = slow_body.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.5 s" in answer
        assert silent.recv(100) == b""
        assert dripping.recv(100) == b""


def test_a_second_head_on_a_kept_connection_has_its_time_too():
    with serving(Models(a=loaded("a")), receive_timeout=0.5) as client:
        kept = connection(client)
        kept.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert status(kept) == 200
        kept.sendall(b"GET /health HTTP/1.1\r\n")
        while data := kept.recv(65536):
            assert b"HTTP/1.1 200" not in data


def test_an_idle_connection_is_kept_and_an_answer_may_take_longer_than_a_request():
    with serving(Models(a=loaded("a", CountingEngine(seconds=0.3))), receive_timeout=0.5) as client:
        kept = connection(client)
        for _ in range(2):
            kept.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert status(kept) == 200
            time.sleep(1)
        assert client.post("/v1/completions", json=BODY | {"max_tokens": 4}).status_code == 200


@pytest.mark.parametrize(
    "data", [b"\x00\xff" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000,
             b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
             b"POST / HTTP/1.1\r\nhost: elsewhere\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    ids=["bytes", "line", "version", "endless", "header", "chunk"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_the_server_serves_on(data, capfd):
    with serving(Models(a=loaded("a")), receive_timeout=0.5) as client:
        with connection(client) as broken:
            broken.sendall(data)
            answer = broken.recv(65536)
            assert not answer or answer.startswith(b"HTTP/1.1 40")
        assert client.get("/health").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_more_connections_than_allowed_are_told_in_json():
    with serving(Models(a=loaded("a")), max_connections=3) as client:
        held = [connection(client) for _ in range(3)]
        time.sleep(0.1)
        with httpx.Client(base_url=client.base_url) as other:
            answer = other.get("/health")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["error"]["code"] == "too_many_connections"
        for one in held:
            one.close()


def test_a_model_that_does_not_come_in_time_is_503_with_a_time():
    with serving(Models(a=lambda: time.sleep(1) or loaded("a")), load_timeout=0.2) as client:
        answer = client.post("/v1/completions", json=BODY)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 120
