"""The cache of remote data: downloads happen once and in one process at a time, and old copies are evicted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from estimator import storage
from estimator.data import remote_data
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.storage import cache_root, data_cache


@pytest.fixture(autouse=True)
def cache(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))


def put(names, size=1000):
    for name in names:
        storage.write_bytes_atomic(f"gs://bucket/{name}", name.encode() * (size // len(name)))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("[!.]*") if path.is_file())


def test_a_folder_is_fetched_once_and_again_when_it_changes(bucket):
    put(["d/a_0.tfrecords", "d/a_0.tfrecords.index", "d/a.json", "d/.hidden", "d/deep/b_0.tfrecords", "e/c"])
    bucket.rate = 0.2
    folder = data_cache.local("gs://bucket/d/", limit_gb=1)
    assert files(folder) == ["a.json", "a_0.tfrecords", "a_0.tfrecords.index"]
    bucket.clear()
    assert data_cache.local("gs://bucket/d", limit_gb=1) == folder
    assert bucket.requests <= 3  # requests the listing, but no files
    storage.remove("gs://bucket/d/a.json")
    storage.write_bytes_atomic("gs://bucket/d/a_0.tfrecords", b"new")
    data_cache.local("gs://bucket/d", limit_gb=1)
    assert files(folder) == ["a_0.tfrecords", "a_0.tfrecords.index"]
    assert Path(folder, "a_0.tfrecords").read_bytes() == b"new"
    assert files(data_cache.local("gs://bucket/d", limit_gb=1, recursive=True))[-1] == "deep/b_0.tfrecords"
    Path(folder, "a_0.tfrecords").write_bytes(b"short")
    data_cache.local("gs://bucket/d", limit_gb=1)
    assert Path(folder, "a_0.tfrecords").read_bytes() == b"new"


def test_no_record_of_a_copy_is_lost_when_files_arrive_together(monkeypatch):
    put([f"d/{i}" for i in range(6)])
    write = data_cache._write_copies

    def late(folder, copied):  # shorter records are written later, so that the first one would be the last
        time.sleep(0.2 / max(1, len(copied)))
        write(folder, copied)

    monkeypatch.setattr(data_cache, "_write_copies", late)
    folder = Path(data_cache.local("gs://bucket/d", limit_gb=1))
    assert sorted(data_cache._read_copies(folder)) == files(folder) == [str(i) for i in range(6)]


def test_of_a_pattern_or_a_file_the_rest_stays_where_it_is():
    put(["d/a_0.tfrecords", "d/a_1.tfrecords", "d/b_0.tfrecords", "d/vocab.bpe"])
    pattern = data_cache.local("gs://bucket/d/a_[0]*.tfrecords", limit_gb=1)
    folder = Path(pattern).parent
    assert Path(pattern).name == "a_[0]*.tfrecords"
    assert files(folder) == ["a_0.tfrecords"]
    assert data_cache.local("gs://bucket/d/b_0.tfrecords", limit_gb=1) == str(folder / "b_0.tfrecords")
    assert files(folder) == ["a_0.tfrecords", "b_0.tfrecords"]
    data_cache.local("gs://bucket/d/vocab.bpe", limit_gb=1, siblings=True)
    assert len(files(folder)) == 4
    for nothing in ("gs://bucket/none", "gs://bucket/d/none*"):
        with pytest.raises(UserError, match="nothing exists there; check the spelling"):
            data_cache.local(nothing, limit_gb=1)


@pytest.mark.parametrize(
    ("name", "copied"),
    [
        ("text.bin", ["meta.pkl", "text.bin", "text.idx"]),
        ("a_0.tfrecords", ["a_0.tfrecords", "a_0.tfrecords.index"]),  # the list would call a_1 missing
        ("a_*", ["a.json", "a_0.tfrecords", "a_0.tfrecords.index", "a_1.tfrecords"]),
        ("n_*.npy", ["n.json", "n_0.npy", "n_0.npy.399.index"]),
        ("*.npy", ["n.json", "n_0.npy", "n_0.npy.399.index", "o.npy"]),
    ],
)
def test_what_says_what_a_shard_is_comes_along(name, copied):
    there = ["a.json", "a_0.tfrecords", "a_0.tfrecords.index", "a_1.tfrecords", "b.json", "b_0.tfrecords", "meta.pkl"]
    there += ["n.json", "n_0.npy", "n_0.npy.399.index", "o.npy", "text.bin", "text.idx", "text.txt"]
    put([f"d/{each}" for each in there])
    config = remote_data.with_local_copies(InputConfig(input="packed", data_path=f"gs://bucket/d/{name}"))
    assert files(Path(config.data_path).parent) == copied


@pytest.mark.parametrize(
    "keys",
    [
        {"data_path": ["gs://bucket/d/a_0.tfrecords", "gs://bucket/d/a_1.tfrecords"]},
        {"data_path": ["gs://bucket/d/a_0.tfrecords"], "eval_split": ["gs://bucket/d/a_1.tfrecords"]},
        {"data_path": "gs://bucket/d", "dataset": [(["a_0.tfrecords"], 1.0), (["a_[1-9].tfrecords"], 1.0)]},
    ],
)
def test_the_list_of_a_set_comes_along_where_all_of_it_is_named_one_by_one(keys):
    names = ["a_0.tfrecords", "a_0.tfrecords.index", "a_1.tfrecords"]
    put([f"d/{each}" for each in ["a.json", *names, "b.json", "b_0.tfrecords", "c_0.tfrecords"]])
    config = remote_data.with_local_copies(InputConfig(input="packed", **keys))
    path = config.data_path[0] if config.data_path else config.dataset[0][0][0]
    assert files(Path(path).parent) == ["a.json", *names]


def test_the_copies_that_were_not_used_for_longest_go_unless_they_are_in_use(tmp_path):
    for name in "abc":
        put([f"{name}/x"], size=400_000)
    fetch = "import sys; from estimator.storage import data_cache; data_cache.local(sys.argv[1], limit_gb=0.001)"
    for name in "ab":  # in processes that exit
        subprocess.run([sys.executable, "-c", fetch, f"gs://bucket/{name}"], cwd=ROOT, check=True)
    a, b, c = (cache_root.folder_of(f"gs://bucket/{name}") for name in "abc")
    os.utime(a / data_cache.COPIES, (1, 1))
    data_cache.local("gs://bucket/c", limit_gb=0.001)
    assert (files(a), files(b), files(c)) == ([], ["x"], ["x"])
    data_cache.local("gs://bucket/b", limit_gb=0.001)  # now b and c are in use by this process
    with pytest.raises(UserError, match=r"do not fit .* hold 0.0 GB \(data_cache_gb\)"):
        data_cache.local("gs://bucket/a", limit_gb=0.001)
    assert (files(b), files(c)) == (["x"], ["x"])


def test_processes_that_want_the_same_fetch_it_once(bucket):
    put([f"d/{i}" for i in range(20)], size=20_000)
    bucket.rate, bucket.kinds = 1.0, ("slow",)
    fetch = "from estimator.storage import data_cache; print(data_cache.local('gs://bucket/d', limit_gb=1))"
    running = [
        subprocess.Popen([sys.executable, "-c", fetch], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    notes = [process.communicate(timeout=600)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], notes
    assert sum("fetching 20 files" in note for note in notes) == 1, notes
    assert len(files(cache_root.folder_of("gs://bucket/d"))) == 20


def test_every_path_of_the_data_becomes_a_local_one():
    put(["d/a_0.tfrecords", "d/s/b_0.tfrecords", "d/v_0.tfrecords", "e/encoder.json", "e/vocab.bpe", "t/deep/a.txt"])
    config = remote_data.with_local_copies(
        InputConfig(
            input="generic_text", data_path="gs://bucket/d", dataset=[(["a_*", "gs://bucket/d/s/b_0.tfrecords"], 1.0)],
            eval_split="v_*", encoder_path="gs://bucket/e/vocab.bpe",
        )
    )  # fmt: skip
    [(names, _)] = config.dataset
    assert [files(Path(path).parent)[0] for path in names] == ["a_0.tfrecords", "b_0.tfrecords"]
    assert Path(config.eval_split).parent.joinpath("v_0.tfrecords").is_file()
    assert files(Path(config.encoder_path).parent) == ["encoder.json", "vocab.bpe"]
    text = remote_data.with_local_copies(InputConfig(input="text", data_path=["gs://bucket/t", "here.txt"]))
    assert files(text.data_path[0]) == ["deep/a.txt"]
    assert text.data_path[1] == "here.txt"
