"""Files in a bucket behave like local files, regardless of network faults; see storage_server.py."""

import contextlib
import gzip
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from helpers import storage_server
from helpers.storage_server import KINDS

from estimator import storage
from estimator.errors import UserError
from estimator.storage import backends, retry

LONG = bytes(range(256)) * 5000


@pytest.fixture(params=["local", "gs", "s3"])
def root(request, tmp_path):
    """Returns a local directory or one in a bucket; the tests are the same for both."""
    if request.param == "local":
        (tmp_path / "sub").mkdir()
        return str(tmp_path)
    request.getfixturevalue("bucket" if request.param == "gs" else "s3_bucket")
    return f"{request.param}://bucket/folder"


def test_what_is_written_is_read(root):
    path = storage.join(root, "a")
    for data in (b"", b"x", LONG):
        storage.write_bytes_atomic(path, data)
        assert storage.read_bytes(path) == data
        assert storage.size(path) == len(data)
    with storage.new_file(path, "w") as file:
        file.write("one\ntwo")
    storage.append(path, "\n\u00e9")
    with storage.open(path, "r") as file:
        assert list(file) == ["one\n", "two\n", "\u00e9"]


def test_files_are_listed_found_and_removed(root):
    assert storage.listing(root) == []
    paths = [storage.join(root, name) for name in ("a.txt", "b.txt", "sub/c.txt")]
    for path in paths:
        assert not storage.exists(path)
        storage.write_bytes_atomic(path, b"x")
    assert storage.listing(root) == paths
    assert storage.glob(storage.join(root, "*.txt")) == paths[:2]
    assert storage.glob(storage.join(root, "**/c.txt")) == paths[2:]
    assert storage.is_folder(root)
    assert not storage.is_folder(paths[0])
    assert storage.is_file(paths[0])
    assert not storage.is_file(root)
    storage.remove(paths[0])
    assert storage.listing(root) == paths[1:]
    storage.remove(root)
    assert not storage.exists(root)
    storage.remove(root)


def test_of_a_link_to_a_folder_the_link_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    storage.remove(str(tmp_path / "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "a").exists()


def test_a_file_appears_when_it_is_complete_and_never_otherwise(root):
    path = storage.join(root, "a")
    with storage.new_file(path) as file:
        file.write(LONG)
        assert not storage.exists(path)
    assert storage.read_bytes(path) == LONG
    for mode, part in (("wb", b"part"), ("w", "part")):
        with pytest.raises(UserError), storage.new_file(path, mode) as file:
            raise UserError(str(file.write(part)))
    assert storage.read_bytes(path) == LONG
    assert storage.listing(root) == [path]


def test_the_first_of_several_creates(root):
    path = storage.join(root, "lock")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_a_compressed_file_is_streamed(root):
    path = storage.join(root, "a.gz")
    with storage.new_file(path) as file, gzip.open(file, "wb") as packed:
        packed.write(LONG)
    with storage.open(path) as file, gzip.open(file) as packed:
        assert packed.read() == LONG


def test_faults_of_the_network_change_nothing(bucket, tmp_path):
    bucket.rate = 0.3
    for i in range(8):
        path = f"gs://bucket/{i}"
        data = LONG[i:]
        storage.write_bytes_atomic(path, data)
        assert storage.read_bytes(path) == data
        storage.download(path, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert storage.listing("gs://bucket") == sorted(f"gs://bucket/{j}" for j in range(i + 1))
    assert len(bucket.made) >= 6, bucket.made


S3_KINDS = ("429", "500", "cut", "changed", "lost")  # the other kinds are tested with gs only


@pytest.mark.parametrize(("scheme", "kind"), [*(("gs", kind) for kind in KINDS), *(("s3", kind) for kind in S3_KINDS)])
def test_a_fault_of_each_kind_is_survived(scheme, kind, request, tmp_path):
    faults = request.getfixturevalue("bucket" if scheme == "gs" else "s3_bucket")
    path = f"{scheme}://bucket/a"
    storage.write_bytes_atomic(path, LONG)
    faults.script = [kind, "", kind, kind, "", ""]
    assert storage.read_bytes(path) == LONG
    storage.download(path, tmp_path / "copy")
    storage.upload(tmp_path / "copy", path)
    assert storage.read_bytes(path) == LONG
    assert faults.made


def test_a_service_that_stays_away_is_told_of(bucket, monkeypatch):
    storage.write_bytes_atomic("gs://bucket/a", b"x")
    monkeypatch.setenv("GPT2_STORAGE_SECONDS", "1")
    for code in ("429", "503"):
        bucket.always = code
        with pytest.raises(UserError, match=rf"gs://bucket/a: .* tries .*{code}.* run the same command again"):
            storage.read_bytes("gs://bucket/a")


@pytest.mark.parametrize("takes", [True, False], ids=["silent", "unreachable"])
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_service_that_never_answered_is_given_up_soon(scheme, takes, monkeypatch):
    pytest.importorskip("gcsfs" if scheme == "gs" else "s3fs", reason="needs the store's package")
    for name, value in (("CONNECT_SECONDS", 1), ("READ_SECONDS", 1)):
        monkeypatch.setattr(backends, name, value)
    monkeypatch.setattr(retry, "UNANSWERED_SECONDS", 1)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=100 if takes else 0) as server,
        contextlib.ExitStack() as others,
    ):
        for _ in range(0 if takes else 3):  # a full queue, so that the next connection is not accepted
            others.enter_context(waiting := socket.socket()).setblocking(False)
            waiting.connect_ex(server.getsockname())
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        settings = storage_server.environment(address) if scheme == "gs" else storage_server.s3_environment(address)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv(retry.SECONDS)
        backends.connected.cache_clear()
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"^{scheme}://bucket/a: the storage service did not .*\S$") as refused:
            storage.read_bytes(f"{scheme}://bucket/a")
        backends.connected.cache_clear()
    assert "\n" not in str(refused.value)
    assert time.monotonic() - started < 10
    assert retry.SECONDS not in os.environ


@pytest.mark.parametrize("text", ["soon", "nan"])
def test_a_wrong_number_of_seconds_is_named(text, bucket, monkeypatch):
    monkeypatch.setenv(retry.SECONDS, text)
    bucket.always = "lost"
    with pytest.raises(UserError, match=f"{retry.SECONDS}={text}: not a number of seconds"):
        storage.is_file("gs://bucket/a")


def test_an_outage_after_an_answer_is_waited_for(bucket, monkeypatch):
    monkeypatch.setenv(retry.SECONDS, "")  # restored after the test
    monkeypatch.delenv(retry.SECONDS)
    monkeypatch.setattr(retry, "UNANSWERED_SECONDS", 0)
    bucket.always = "lost"
    with pytest.raises(UserError, match="in 1 try over"):
        storage.is_file("gs://bucket/a")
    bucket.clear()
    assert not storage.is_file("gs://bucket/a")  # an answer too
    bucket.script = ["lost", "lost"]
    storage.write_bytes_atomic("gs://bucket/a", b"x")
    assert float(os.environ[retry.SECONDS]) == retry.DEFAULT_SECONDS  # of processes started from here, too


def test_what_stays_wrong_is_said_at_once_with_the_fix(bucket):
    for code, words in (("401", "no valid credentials for gs://bucket; run `gcloud"), ("403", "permission denied")):
        bucket.always = code
        for operation in (storage.read_bytes, storage.listing, lambda path: storage.write_bytes_atomic(path, b"")):
            before = bucket.requests
            with pytest.raises(UserError, match=words):
                operation("gs://bucket/a")
            assert bucket.requests <= before + 4  # listing also checks for a directory
    bucket.clear()
    for path in ("gs://bucket/none", "gs://none/a"):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such object, or no bucket"):
            storage.read_bytes(path)
    with pytest.raises(UserError, match="no bucket gs://none"):
        storage.write_bytes_atomic("gs://none/a", b"")
    for path, words in (("gs://", "names no bucket"), ("hdfs://a/b", "unknown kind of storage")):
        with pytest.raises(UserError, match=words):
            storage.read_bytes(path)


def test_without_the_package_it_is_named(monkeypatch):
    backends.connected.cache_clear()
    for module, path in (("gcsfs.core", "gs://a/b"), ("s3fs", "s3://a/b")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"need {module[:4].strip('.')}.*pip install -r requirements-"):
            storage.read_bytes(path)


def test_of_a_pattern_what_exists_by_that_very_name_is_meant(root):
    names = ("e1/a.txt", "e[12]/b.txt", "e[12]/c[1].txt", "e2/a.txt", "sub/x")
    paths = dict(zip(names, (storage.join(root, name) for name in names), strict=True))
    for name, path in paths.items():
        if "://" not in root:
            Path(path).parent.mkdir(exist_ok=True)
        storage.write_bytes_atomic(path, name.encode())
    assert storage.glob(storage.join(root, "e[12]")) == [storage.join(root, "e[12]")]
    assert storage.glob(storage.join(root, "e[12]", "*.txt")) == [paths["e[12]/b.txt"], paths["e[12]/c[1].txt"]]
    assert storage.glob(storage.join(root, "e[12]", "c[1].txt")) == [paths["e[12]/c[1].txt"]]
    assert storage.glob(storage.join(root, "e[2]", "*")) == [paths["e2/a.txt"]]
    assert storage.children(storage.join(root, "e[12]"), "c*") == [paths["e[12]/c[1].txt"]]
    assert storage.children(storage.join(root, "e[1]")) == []
    assert not storage.is_pattern(storage.join(root, "e[12]"))
    assert storage.is_pattern(storage.join(root, "e[2]"))


@pytest.mark.parametrize("name", ["folder", "missing/file"])
def test_errors_of_a_new_file_name_it_and_not_the_temporary_one(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=name) as error, storage.new_file(tmp_path / name) as file:
        file.write(b"x")
    assert error.value.filename == str(tmp_path / name)
    assert ".tmp" not in str(error.value)
