"""Converting published corpora to shards: from a server that mimics the Hub, from a local directory, and from a URL."""

import hashlib
import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest
from conftest import ROOT
from helpers.http_server import serve

from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.shards.tfrecord import open_shard
from estimator.tokenization.train_bpe import train_byte_bpe
from inputs import open_data

PROGRAM = ROOT / "datasets" / "openwebtext" / "prepare.py"
REPOSITORY, REVISION = "some/texts", "0123456789abcdef0123456789abcdef01234567"
TEXTS = [f"Text {number} tells of {number * number} things, one after the other." for number in range(600)]
REPEATED = [*TEXTS, *TEXTS[:40]]


def load_program():
    spec = importlib.util.spec_from_file_location("prepare", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = load_program()


class Hub:
    """Serves file listings under /api and redirects /resolve/ to signed URLs on another host. hold: stall mid-file."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.hold, self.held, self.released, self.listing = False, threading.Event(), threading.Event(), None
        self.http = serve(self.answer)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request):
        path = urlsplit(request.path).path
        self.requests.append((path, request.headers.get("Range")))
        tree, resolve = f"/api/datasets/{REPOSITORY}/tree/{REVISION}/", f"/datasets/{REPOSITORY}/resolve/{REVISION}/"
        if path.startswith(tree):
            self.send(request, json.dumps(self.listing or self.entries(path.removeprefix(tree))).encode())
        elif path.startswith(resolve):
            name = path.removeprefix(resolve)
            request.send_response(302 if name in self.files else 404)
            request.send_header("Location", f"http://localhost:{self.http.server_port}/signed/{name}?Signature=x")
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            data = self.files.get(path.removeprefix("/signed/"))
            self.send_file(request, data) if data is not None else request.send_error(404)

    def entries(self, folder):
        files = [(name, data) for name, data in self.files.items() if name.startswith(folder)]
        folders = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder or "x"}]
        return folders + [
            {"type": "file", "path": name, "size": len(data), "lfs": {"oid": hashlib.sha256(data).hexdigest()}}
            for name, data in files
        ]

    def send_file(self, request, data):
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if self.hold and len(data) > 1000:
            request.wfile.write(data[: len(data) // 2])
            self.held.set()
            self.released.wait(60)
            return
        request.wfile.write(data[start:])

    def send(self, request, body):
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def hub(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = Hub()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_byte_bpe(TEXTS[:50], n_vocab=300, out=folder)
    return folder


def parquet(texts) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="no pyarrow; pip install -r requirements-data.txt")
    import pyarrow.parquet

    buffer = pa.BufferOutputStream()
    draw = random.Random(len(texts))  # random, incompressible text makes the file larger than a buffer
    table = pa.table({"text": texts, "url": [draw.randbytes(300).hex() for _ in texts]})
    pyarrow.parquet.write_table(table, buffer, row_group_size=100)
    return buffer.getvalue().to_pybytes()


def fill(hub):
    hub.files["plain_text/train-00000-of-00002.parquet"] = parquet(REPEATED[:300])
    hub.files["plain_text/train-00001-of-00002.parquet"] = parquet(REPEATED[300:])
    hub.files["plain_text/README.md"] = b"not a text to train on"
    hub.files["other/train.parquet"] = parquet(["text of another folder"])


def command(source, encoder, out, *more):
    options = ["--encoder", str(encoder), "--out", str(out), "--valid", "0.1", "--workers", "1"]
    return [sys.executable, str(PROGRAM), source, *options, *map(str, more)]


def run(monkeypatch, *arguments):
    """Runs the program in this process."""
    monkeypatch.setattr(sys, "argv", command(*arguments)[1:])
    prepare.main()


def texts_in(out, encoder) -> list[str]:
    from estimator.tokenization.tokenizer import load

    tokenizer = load(encoder)
    shards = [open_shard(path) for path in sorted(out.glob("*.tfrecords"))]
    return sorted(tokenizer.decode(shard.record(i)[1]) for shard in shards for i in range(len(shard)))


def page(hub, folder="plain_text"):
    return f"{hub.url}/datasets/{REPOSITORY}/tree/{REVISION}/{folder}"


def test_from_the_hub_a_killed_command_continues_in_mid_file(hub, encoder, tmp_path, monkeypatch):
    fill(hub)
    monkeypatch.chdir(tmp_path)
    arguments = (page(hub), encoder, tmp_path / "shards", "--from", hub.url)
    hub.hold = True
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert hub.held.wait(60)
        part = tmp_path / f"downloads/{REPOSITORY}@{REVISION}/plain_text/train-00000-of-00002.parquet.part"
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "shards").exists()
    hub.hold = False
    hub.released.set()
    done, hub.requests = part.stat().st_size, []
    run(monkeypatch, *arguments)
    asked = [entry for entry in hub.requests if entry[0].startswith("/signed/")]
    assert asked[0] == ("/signed/plain_text/train-00000-of-00002.parquet", f"bytes={done}-")
    assert len(asked) == 2
    assert not [path for path, _ in hub.requests if path.startswith("/api/")]  # the listing was cached
    assert texts_in(tmp_path / "shards", encoder) == sorted(TEXTS)  # each text once, and nothing from other directories
    hub.requests = []
    run(monkeypatch, *arguments)
    assert hub.requests == []  # complete: neither downloaded nor encoded again


def test_the_shards_train_and_name_their_source(hub, encoder, tmp_path, monkeypatch, capsys):
    fill(hub)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(prepare.CORPORA, "openwebtext", prepare.HubFolder(REPOSITORY, REVISION, "plain_text"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    run(monkeypatch, "openwebtext", encoder, tmp_path / "shards")
    shown = capsys.readouterr().out
    manifest = json.loads((tmp_path / "shards" / "openwebtext.json").read_text())
    held_out = json.loads((tmp_path / "shards" / "openwebtext_valid.json").read_text())
    assert manifest["documents"] + held_out["documents"] == len(TEXTS)
    assert manifest["inputs"] == [f"downloads/{REPOSITORY}@{REVISION}/{name}" for name in sorted(hub.files)[2:]]
    keys = json.loads("{" + shown.rpartition("in the JSON file ")[2] + "}")
    n_vocab = keys.pop("n_vocab")
    data = open_data(InputConfig(**keys), n_ctx=16, n_vocab=n_vocab, cache=tmp_path / "cache")
    assert len(data.evaluation)
    assert data.train.windows_per_epoch > 100


def test_a_local_folder_needs_no_network(hub, encoder, tmp_path, monkeypatch):
    """A local copy has the layout of the Hub's cache: symbolic links to files that are named by their hashes."""
    fill(hub)
    snapshot, blobs = tmp_path / "snapshots" / REVISION / "plain_text", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"):
        data = hub.files[f"plain_text/{name}"]
        blob = blobs / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(blob)
    run(monkeypatch, str(snapshot), encoder, tmp_path / "shards")
    assert texts_in(tmp_path / "shards", encoder) == sorted(TEXTS)
    assert hub.requests == []
    run(monkeypatch, "fineweb", encoder, tmp_path / "first", "--from", snapshot, "--max_files", 1)
    assert texts_in(tmp_path / "first", encoder) == sorted(TEXTS[:300])


@pytest.mark.parametrize("program", ["prepare.py", "create_tfrecords.py"])
def test_names_divide_an_archive(program, encoder, tmp_path):
    for name in ("train", "valid"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.txt").write_text(f"the text of {name} " * 300)
    path = shutil.make_archive(str(tmp_path / "wiki"), "zip", tmp_path / "in")
    options = ["--encoder", str(encoder), "--out", str(tmp_path / "shards"), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM.parent / program), path, *options], capture_output=True, text=True, timeout=300
    )
    assert done.stderr.count("valid in wiki.zip for evaluation, not for training") == 1, done.stderr
    assert len(list((tmp_path / "shards").glob("*_valid_0.tfrecords"))) == 1


def test_an_address_of_packed_json_lines(hub, encoder, tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard", reason="no zstandard; pip install -r requirements-data.txt")
    lines = "".join(json.dumps({"body": text}) + "\n" for text in REPEATED)
    hub.files["a/texts.jsonl.zst"] = zstandard.compress(lines.encode())
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, f"{hub.url}/signed/a/texts.jsonl.zst", encoder, tmp_path / "shards", "--text_key", "body")
    assert texts_in(tmp_path / "shards", encoder) == sorted(TEXTS)


def test_what_arrives_damaged_is_not_encoded(hub, encoder, tmp_path, monkeypatch):
    fill(hub)
    name = "plain_text/train-00001-of-00002.parquet"
    hub.listing = hub.entries("plain_text/")
    hub.files[name] = hub.files[name][:-9] + bytes(9)
    with pytest.raises(UserError, match="does not have the sha256"):
        prepare.fetch(page(hub), str(tmp_path), mirror=hub.url)
    assert not list(tmp_path.rglob("train-00001*"))
    assert list(tmp_path.rglob("train-00000-of-00002.parquet"))


def test_answers_of_a_server_that_are_refused(hub, tmp_path, monkeypatch):
    fill(hub)
    wrong = {
        "not a path below": [{"type": "file", "path": "../../outside.parquet", "size": 3}],
        "name a folder with fewer": [{"type": "file", "path": f"{i:04}.parquet", "size": 3} for i in range(1000)],
        "not a list of files": {"error": "busy"},
        "take fewer files with --max_files": [{"type": "file", "path": "plain_text/a.parquet", "size": 1 << 60}],
    }
    for number, (message, hub.listing) in enumerate(wrong.items()):
        with pytest.raises(UserError, match=message):
            prepare.fetch(page(hub), str(tmp_path / str(number)), mirror=hub.url)
    with pytest.raises(UserError, match="no such file"):
        prepare.fetch(page(hub).replace(REVISION, "1" * 40), str(tmp_path), mirror=hub.url)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {prepare.LISTING}
