"""Downloads from a local server that drops connections, stalls, misreports, ignores ranges, and changes its files."""

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.http_server import serve
from helpers.tf_bundles import write_bundle

from estimator.errors import UserError
from estimator.interop import downloads, hub
from estimator.interop.downloads import NotThere, Remote, download

SIZE = 300_000
# Answers to a request for the whole file: "status kind" -> headers.
UNASKED = {
    "206 part": {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE + 1}"},
    "206 later": {"Content-Range": f"bytes 1-{SIZE}/{SIZE + 1}"},
    "206 unknown": {"Content-Range": f"bytes 0-{SIZE - 1}/*"},
    "206 bare": {},
    "206 whole": {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"},
    "203 whole": {},
    "200 identity": {"Content-Encoding": "identity"},
    "200 gzip": {"Content-Encoding": "gzip"},
    "202 accepted": {},
    "204 empty": {},
}


class Server:
    """files: name -> content. faults: one per upcoming response, "" for none. etag: of all files, or None."""

    def __init__(self):
        self.files, self.faults, self.requests = {}, [], []
        self.ranges, self.etag, self.modified, self.delay = True, '"1"', None, 0.0
        self.http = serve(self.answer)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request):
        self.requests.append(dict(request.headers))
        fault = self.faults.pop(0) if self.faults else ""
        data = self.files.get(request.path.lstrip("/"))
        if fault.isdigit() or data is None:
            request.send_error(int(fault or 404))
            return
        if fault == "moved":
            request.send_response(302)
            request.send_header("Location", self.url.replace("127.0.0.1", "localhost") + request.path)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "page":
            data = b"<!DOCTYPE html><p>Sign in</p>"
        start, code = 0, 200
        asked = request.headers.get("Range", "")
        fits = request.headers.get("If-Range") in (None, self.etag, self.modified) or fault == "other version"
        if asked and self.ranges and fits:
            start, code = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.end_headers()
                return
        body = data[start:]
        if fault in UNASKED:
            code = int(fault.split()[0])
        request.send_response(code)
        lie = {"long": 1000, "short": -len(body) // 2}.get(fault, 0)
        request.send_header("Content-Length", str(len(body) + lie))
        if fault in UNASKED:
            for name, value in UNASKED[fault].items():
                request.send_header(name, value)
        elif code == 206:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.etag:
            request.send_header("ETag", '"9"' if fault == "other version" else self.etag)
        if self.modified:
            request.send_header("Last-Modified", self.modified)
        request.end_headers()
        body = body[: len(body) // 3] if fault == "cut" else body
        if fault == "change":  # the file is replaced in the middle of the transfer
            request.wfile.write(body[: len(body) // 2])
            self.files[request.path.lstrip("/")], self.etag = data[::-1], '"2"'
            return
        for place in range(0, len(body), 20_000):
            try:
                request.wfile.write(body[place : place + 20_000])
            except OSError:
                return
            time.sleep(self.delay)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = Server()
    made.files["f.bin"] = np.random.default_rng(0).bytes(SIZE)
    yield made
    made.http.shutdown()
    made.http.server_close()


def remote(server, name="f.bin", **known):
    return Remote(f"{server.url}/{name}", **known)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def get(source, path):
    return download(source, path, pause=0.001)


FAULTS = {
    "nothing": [],
    "cuts": ["cut"] * 6,
    "busy": ["503", "429", "500"],
    "more promised": ["long", "cut", "long"],
    "changes": ["cut", "change", "cut"],
    "other version in a range": ["cut", "other version"],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", ["ranges", "no ranges", "dates", "no version"])
def test_the_file_is_whole_whatever_the_server_does(server, tmp_path, faults, kind):
    server.faults, server.ranges = list(faults), kind != "no ranges"
    if kind in ("dates", "no version"):
        server.etag = None
    if kind == "dates" and "change" not in faults:
        server.modified = "Thu, 14 Feb 2019 18:00:00 GMT"
    seen = []
    path = tmp_path / "x" / "f.bin"
    assert download(remote(server), path, progress=lambda done, total: seen.append((done, total)), pause=0.001)
    assert path.read_bytes() == server.files["f.bin"]
    assert seen[-1] == (SIZE, SIZE)
    assert [entry.name for entry in path.parent.iterdir()] == ["f.bin"]
    assert not get(remote(server), path)  # already downloaded


def test_a_part_is_continued_and_not_fetched_again(server, tmp_path):
    server.faults = ["cut"]
    get(remote(server), tmp_path / "f.bin")
    assert server.requests[1]["Range"] == f"bytes={SIZE // 3}-"
    assert server.requests[1]["If-Range"] == '"1"'


@pytest.mark.parametrize("fault", UNASKED)
def test_only_an_answer_with_all_of_the_file_is_the_file(server, tmp_path, fault):
    path = tmp_path / "f.bin"
    if fault.endswith(("whole", "identity")):
        server.faults = [fault]
        get(remote(server), path)
        assert len(server.requests) == 1
    else:
        server.faults = [fault] * downloads.FIRST_TRIES
        with pytest.raises(UserError, match=r"cannot be downloaded: the server (sends|answers) .*--from"):
            get(remote(server), path)
        assert not list(tmp_path.iterdir())
        server.faults = [fault]  # once: it may pass
        get(remote(server), path)
    assert path.read_bytes() == server.files["f.bin"]


def test_an_encoded_answer_leaves_the_part_that_arrived(server, tmp_path):
    server.faults = ["cut", "200 gzip"]
    get(remote(server), tmp_path / "f.bin")
    assert server.requests[2]["Range"] == f"bytes={SIZE // 3}-"
    assert (tmp_path / "f.bin").read_bytes() == server.files["f.bin"]


def test_a_hash_or_size_that_is_wrong_is_never_kept(server, tmp_path):
    for known in ({"sha256": digest(b"other")}, {"size": 100}):
        with pytest.raises(UserError, match=r"nothing of it was kept|100"):
            get(remote(server, **known), tmp_path / "f.bin")
        assert not list(tmp_path.glob("*"))
    # A corrupt partial file does not corrupt the result: the file is downloaded again, once.
    right = remote(server, sha256=digest(server.files["f.bin"]))
    server.faults = ["short"]
    assert get(right, tmp_path / "f.bin")
    # An existing file is verified before it is used.
    (tmp_path / "f.bin").write_bytes(b"x" * SIZE)
    assert get(right, tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == server.files["f.bin"]


def test_an_error_page_is_never_saved_as_a_weight(server, tmp_path):
    server.faults = ["page"] * 4
    with pytest.raises(UserError, match="is a web page"):
        get(remote(server), tmp_path / "f.bin")
    with pytest.raises(NotThere, match="no such file"):
        get(remote(server, "g.bin"), tmp_path / "g.bin")
    server.faults = ["403"]
    with pytest.raises(UserError, match="refuses with 403"):
        get(remote(server), tmp_path / "f.bin")
    server.files["config.json"] = b"Access denied"
    with pytest.raises(UserError, match="not valid JSON"):
        get(remote(server, "config.json"), tmp_path / "config.json")
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".json")]


def test_no_network_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "FIRST_TRIES", 2)
    for url in ("http://127.0.0.1:9/f.bin", "http://no.such.host.invalid/f.bin"):
        with pytest.raises(UserError, match=r"cannot be downloaded: .*connected .*--from") as caught:
            get(Remote(url), tmp_path / "f.bin")
        assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "FIRST_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"cannot be downloaded: .*connected"):
            get(Remote(f"http://127.0.0.1:{silent.getsockname()[1]}/f.bin"), tmp_path / "f.bin")
    assert time.monotonic() - began < 5


def test_the_token_is_sent_to_the_hub_alone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.faults = ["moved"]
    get(remote(server), tmp_path / "f.bin")
    assert [request.get("Authorization") for request in server.requests] == ["Bearer hf_secret", None]
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    get(remote(server), tmp_path / "again" / "f.bin")
    assert "Authorization" not in server.requests[-1]
    server.faults = ["401"]
    with pytest.raises(UserError, match=r"refuses with 401 .*; set HF_TOKEN"):
        get(remote(server), tmp_path / "private" / "f.bin")


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    server.files["http://far.example/f.bin"] = b"by proxy"
    monkeypatch.setenv("http_proxy", server.url)
    get(Remote("http://far.example/f.bin"), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == b"by proxy"


def test_killed_fifty_times_it_ends_correct(server, tmp_path):
    """A separate process is killed at random times; the slow server occasionally changes the version of the file."""
    server.delay = 0.004
    path, draw = tmp_path / "f.bin", random.Random(0)
    loop = (  # forks, to avoid starting Python fifty times
        "import os, sys\nfrom pathlib import Path\nfrom estimator.interop.downloads import Remote, download\n"
        "for line in sys.stdin:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        f"        download(Remote({server.url + '/f.bin'!r}), Path({str(path)!r}), pause=0.001)\n"
        "        os._exit(0)\n"
        "    print(child, flush=True)\n"
        "    os.waitpid(child, 0)\n"
        "    print('ended', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", loop], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    kills = 0
    while kills < 50:
        process.stdin.write("go\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        time.sleep(draw.random() * 0.06)
        with contextlib.suppress(ProcessLookupError):  # has already exited
            os.kill(child, signal.SIGKILL)
            kills += 1
        assert process.stdout.readline() == "ended\n"
        if kills % 15 == 14:
            server.files["f.bin"] = np.random.default_rng(kills).bytes(SIZE)
            server.etag = f'"{kills}"'
        if path.exists():
            # The final name holds either the complete file or nothing.
            assert len(path.read_bytes()) == SIZE
            path.unlink()
    process.stdin.close()
    process.wait()
    server.delay = 0
    assert get(remote(server), path)
    assert path.read_bytes() == server.files["f.bin"]
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")] == ["f.bin"]


# --- Released models ---


def fetch(name, out, mirror):
    notes = []
    folder = hub.fetch(
        hub.find(name),
        out,
        mirror=mirror,
        progress=lambda name, done, total: None,
        note=notes.append,
    )
    return folder, notes


def put_checkpoint(server, tmp_path, gpt2_encoder):
    write_bundle(tmp_path / "model.ckpt", {"model/wte": np.ones((4, 4), np.float32)})
    for path in tmp_path.glob("model.ckpt.*"):
        server.files[path.name] = path.read_bytes()
        path.unlink()
    server.files["hparams.json"] = b'{"n_layer": 12, "n_head": 12, "n_embd": 768, "n_ctx": 1024, "n_vocab": 50257}'
    for name in hub.VOCABULARY:
        server.files[name] = (gpt2_encoder / name).read_bytes()


def test_a_released_model_is_fetched_and_checked_as_a_whole(server, tmp_path, gpt2_encoder):
    put_checkpoint(server, tmp_path, gpt2_encoder)
    folder, _ = fetch("117M", tmp_path, server.url)
    assert folder == tmp_path / "pretrained" / "124M"
    assert (folder / "checkpoint").read_text() == 'model_checkpoint_path: "model.ckpt"\n'
    assert (tmp_path / "encoder" / "vocab.bpe").is_file()
    text = hub.describe(hub.find("117M"), folder)
    assert '"n_layer": 12' in text
    assert '"init_from": "124M"' in text
    # A second call makes no requests; a local directory also works as a mirror.
    asked = len(server.requests)
    fetch("124M", tmp_path, server.url)
    assert len(server.requests) == asked
    fetch("124M", tmp_path / "other", str(folder))
    data = server.files["model.ckpt.data-00000-of-00001"]
    server.files["model.ckpt.data-00000-of-00001"] = bytes([data[0] ^ 1]) + data[1:]
    with pytest.raises(UserError, match=r"model/wte.*does not fit its checksum.*removed"):
        fetch("124M", tmp_path / "damaged", server.url)
    assert not list((tmp_path / "damaged").rglob("model.ckpt.*"))


@pytest.mark.parametrize(
    ("there", "is_fetched"),
    [
        ((), True),
        (("encoder.json",), True),  # as a command that was killed leaves it
        (("encoder.json", "vocab.bpe"), False),
        (("tokenizer.json",), False),
        (("tokenizer.model",), False),
        (("vocab.txt",), False),
        (("vocab.json", "merges.txt"), False),
    ],
)
def test_a_vocabulary_of_any_kind_stays_alone_in_its_folder(there, is_fetched, tmp_path):
    (tmp_path / "encoder").mkdir()
    for name in there:
        (tmp_path / "encoder" / name).write_text("{}")
    notes: list[str] = []
    mirror = str(tmp_path / "missing")
    hub._fetch_vocabulary(tmp_path / "model", tmp_path / "encoder", mirror, lambda *_: None, notes.append)
    assert bool(notes) == is_fetched
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == sorted(there)


def test_the_vocabulary_alone_and_with_connorjls_models(server, tmp_path, gpt2_encoder):
    put_checkpoint(server, tmp_path, gpt2_encoder)
    folder, notes = fetch("ConnorJL/117M", tmp_path, server.url)
    assert folder == tmp_path / "pretrained" / "ConnorJL" / "117M"
    assert (tmp_path / "encoder" / "encoder.json").is_file()
    assert not notes
    folder, _ = fetch("encoder", tmp_path / "two", server.url)
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "vocab.bpe"]
    server.files["vocab.bpe"] += b" "
    with pytest.raises(UserError, match="does not have the sha256"):
        fetch("encoder", tmp_path / "three", server.url)


def put_hugging_face(server, prefix, *, model_type="gpt2"):
    header = b'{"wte.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(8)
    server.files[f"{prefix}/config.json"] = json.dumps({"model_type": model_type, "n_layer": 2}).encode()
    server.files[f"{prefix}/model.safetensors"] = weights
    server.files[f"{prefix}/merges.txt"] = b"a b"
    return weights


def test_any_gpt2_of_hugging_face_with_the_hashes_of_its_list(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    base = "org/model/resolve/main"
    weights = put_hugging_face(server, base)
    entries = [
        {"type": "file", "path": name, "size": len(server.files[f"{base}/{name}"])}
        for name in ("config.json", "model.safetensors", "merges.txt")
    ]
    # Computed with `git hash-object`.
    entries[0]["oid"] = "c04041fab4f98e4914fe3e77f1b6b3d8ba6fea35"
    entries[2]["oid"] = "9eb1507c015c9e04b0db04402ed780a1526cce64"
    entries[1]["lfs"] = {"oid": digest(weights), "size": len(weights)}
    server.files["api/models/org/model/tree/main"] = json.dumps([*entries, {"type": "directory", "path": "d"}]).encode()
    folder, _ = fetch("org/model", tmp_path, None)
    assert folder == tmp_path / "pretrained" / "org" / "model"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "merges.txt", "model.safetensors"]
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for path, data in whole.items():  # simulate disk corruption that preserves sizes and syntax
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if path.suffix != ".json" else data.replace(b"2", b"3"))
    fetch("org/model", tmp_path, None)
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole
    entries[1]["lfs"]["oid"] = digest(b"other")
    server.files["api/models/org/model/tree/main"] = json.dumps(entries).encode()
    with pytest.raises(UserError, match="sha256"):
        fetch("org/model", tmp_path / "two", None)
    put_hugging_face(server, "mirror", model_type="llama")
    with pytest.raises(UserError, match=r"another architecture \(llama\)"):
        fetch("org/model", tmp_path / "three", f"{server.url}/mirror")


def test_the_files_of_any_vocabulary_come_along_and_the_keys_fit(server, tmp_path, monkeypatch, gpt2_encoder):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    base = "org/model/resolve/v1.0"
    put_hugging_face(server, base)
    sizes = {"num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 48}
    config = sizes | {"model_type": "gpt2", "vocab_size": 11, "activation_function": "gelu"}
    server.files[f"{base}/config.json"] = json.dumps(config).encode()
    extra = ("spiece.model", "vocab.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")
    server.files |= {f"{base}/{name}": b"{}" for name in extra}
    files = [name.removeprefix(f"{base}/") for name in server.files if name.startswith(base)]
    listed = [{"type": "file", "path": name} for name in files]
    server.files["api/models/org/model/tree/v1.0"] = json.dumps(listed).encode()
    model = hub.find("https://huggingface.co/org/model/tree/v1.0")
    folder, _ = fetch("org/model@v1.0", tmp_path, None)
    assert {path.name for path in folder.iterdir()} == set(files)
    text = hub.describe(model, folder)
    assert "no vocabulary of it can be used" in text  # all of them are incomplete
    keys = json.loads("{" + text.split("to begin with it: ")[1] + "}")
    assert keys == {
        "n_layer": 3, "n_embd": 8, "n_head": 2, "n_ctx": 48, "n_vocab": 11, "activation": "gelu",
        "init_from": "org/model@v1.0",
    }  # fmt: skip
    # A model that training would reject is rejected before its weights are downloaded.
    server.files[f"{base}/config.json"] = json.dumps(config | {"activation_function": "mish"}).encode()
    with pytest.raises(UserError, match='activation_function "mish"'):
        fetch("org/model@v1.0", tmp_path / "refused", None)
    assert not list((tmp_path / "refused").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "folder", "revision"),
    [
        ("gpt2", "openai-community/gpt2", "main"),
        ("gpt2-xl", "openai-community/gpt2-xl", "main"),
        ("distilgpt2", "distilbert/distilgpt2", "main"),
        ("https://huggingface.co/gpt2", "openai-community/gpt2", "main"),
        ("https://huggingface.co/org/name/", "org/name", "main"),
        ("https://huggingface.co/org/name/tree/main", "org/name", "main"),
        ("https://huggingface.co/org/name/blob/abc/config.json", "org/name@abc", "abc"),
        ("https://hf.co/gpt2/tree/v2", "openai-community/gpt2@v2", "v2"),
    ],
)
def test_names_and_pages_of_the_hub(name, folder, revision):
    model = hub.find(name)
    assert (model.folder, model.base, model.revision) == (folder, None, revision)
    assert hub.folder_name(name) == folder


def test_names_that_are_not_known_are_told(tmp_path):
    with pytest.raises(UserError, match="no released model is called 125M; available: 124M"):
        hub.find("125M")
    with pytest.raises(UserError, match="no such folder"):
        fetch("124M", tmp_path, "nowhere")
    assert {hub.folder_name(name) for name in hub.OLD_NAMES} == set(hub.OPENAI_NAMES)
