"""The OpenWebText pipeline, from a URL list to a trained model: download, extract, create shards, train."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers.web_archives import text
from helpers.website import Site

from estimator import storage
from estimator.shards.tfrecord import open_shard
from estimator.tokenization import tokenizer as tokenizers

for package in ("httpx", "protego", "trafilatura", "py3langid", "ftfy", "fastwarc"):
    pytest.importorskip(package, reason="web text needs requirements-data.txt")

DATA = ROOT / "datasets"
WEB = DATA / "openwebtext"


def run(program: Path, *arguments: object) -> str:
    command = [sys.executable, str(program), *map(str, arguments)]
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILE}  # one device is enough
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a vocabulary trained on other text of the same kind."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "text.txt").write_text("\n".join(text(number) for number in range(1000, 1100)))
    run(DATA / "train_tokenizer.py", folder / "text.txt", "--vocab_size", 400, "--out", folder / "encoder")
    return folder / "encoder"


def create(source: Path, out: Path, encoder: Path, *arguments: object) -> list[Path]:
    """Creates shards and returns their paths in numeric order."""
    run(WEB / "create_tfrecords.py", source, "--out", out, "--encoder", encoder, "--workers", 1, *arguments)
    stem = "openwebtext-newspaper-long_" if "--long" in arguments else "openwebtext-newspaper_"
    return sorted(out.glob(f"{stem}*.tfrecords"), key=lambda path: int(path.stem.rpartition("_")[2]))


@pytest.mark.parametrize("layout", ["warc", "archive"])
def test_pages_of_a_list_become_their_texts(layout: str, tmp_path: Path):
    with Site(hosts=8, pages_per_host=8) as site:
        (tmp_path / "urls.txt").write_text("\n".join(site.urls))
        arguments = ["--out", tmp_path / "pages", "--to", layout, "--contact", "a@example.org", "--delay", "0"]
        run(WEB / "download.py", tmp_path / "urls.txt", *arguments, "--allow_private", *site.resolve)
        expected = {url: site.text_of(url) for url in site.fetched()}
    run(WEB / "extract_text.py", tmp_path / "pages", "--out", tmp_path / "text", "--rules", "none", "--workers", 1)
    found = {}
    for path in (tmp_path / "text").glob("*.jsonl.gz"):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            document = json.loads(line)
            document["text"] = document["text"].replace("biblioth\xe8que", "library")  # on a Latin-1 page
            found[document["url"]] = "\n".join(document["text"].splitlines()[1:])  # without the headline
    assert len(expected) > 50
    assert found == expected


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns output of extract_text.py: 60 documents, some of them short."""
    folder = tmp_path_factory.mktemp("extracted")
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        for number in range(60):
            content = "A few words." if number == 9 else text(number, sentences=8 if number % 3 else 60)
            file.write(
                json.dumps({"id": f"{number:07d}-abc", "url": f"http://a.test/{number}", "text": content}) + "\n"
            )
        odd = "The \ufb01rst caf\u00c3\u00a9 " + text(999)
        file.write(json.dumps({"id": "odd", "url": "http://a.test/odd", "text": odd}) + "\n")
    return folder


def test_shards_have_the_names_and_hashes_of_the_seed_and_repaired_text(extracted: Path, encoder: Path, tmp_path: Path):
    tokenizer = tokenizers.load(encoder)
    records = [
        shard.record(i) for shard in map(open_shard, create(extracted, tmp_path, encoder)) for i in range(len(shard))
    ]
    # All documents except the one with fewer than 25 tokens.
    assert sorted(name for name, _ in records) == [*(b"%07d-abc" % i for i in range(60) if i != 9), b"odd"]
    texts = [tokenizer.decode(tokens.tolist()) for _, tokens in records]
    assert any(each.startswith("The first caf\u00e9 ") for each in texts)
    assert text(3, sentences=60) in texts


def test_the_long_set_has_long_documents_only(extracted: Path, encoder: Path, tmp_path: Path):
    shards = create(extracted, tmp_path, encoder, "--long")
    counts = [int(count) for path in shards for count in open_shard(path).token_counts]
    assert min(counts) >= 512
    assert len(counts) == 19  # every third of 60, except for number 9


def test_a_bucket_gets_the_same_shards(extracted: Path, encoder: Path, tmp_path: Path, bucket):
    here = create(extracted, tmp_path / "here", encoder)
    out = run(
        WEB / "create_tfrecords.py",
        *(extracted, "--out", "gs://bucket/data/", "--encoder", encoder, "--workers", 1, "--work", tmp_path / "work"),
    )
    assert f"written          {len(here)} shards: gs://bucket/data/openwebtext-newspaper_I.tfrecords" in out
    names = {path.rpartition("/")[2] for path in storage.listing("gs://bucket/data")}
    assert names == {path.name for path in (tmp_path / "here").iterdir()}
    for path in here:
        assert storage.read_bytes(f"gs://bucket/data/{path.name}") == path.read_bytes()
    assert not list((tmp_path / "work").iterdir())


def test_ten_steps_of_training_on_both_sets(extracted: Path, encoder: Path, tmp_path: Path):
    create(extracted, tmp_path / "data", encoder)
    create(extracted, tmp_path / "data", encoder, "--long")
    config = json.loads((ROOT / "configs" / "tiny.json").read_text())
    config |= {
        "model_path": str(tmp_path / "run"),
        "predict_path": str(tmp_path / "predictions.txt"),
        "input": "openwebtext_longbiased",
        "data_path": str(tmp_path / "data"),
        "encoder_path": str(encoder),
        "n_layer": 1,
        "n_embd": 16,
        "max_steps": 10,
        "train_steps": 10,
        "log_steps": 5,
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    run(ROOT / "main.py", "--model", tmp_path / "tiny.json")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 10
    assert [line for line in lines if line["split"] == "eval"]
