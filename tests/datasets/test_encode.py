"""Encoding text to shards: round trips, no partial output, cache reuse, and programs that run from any directory."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from estimator import storage
from estimator.corpus import chat_template, python_docs
from estimator.corpus.build import (
    cache_records,
    pipeline,
    select_documents,
    sorted_runs,
    text_cache,
    to_bucket,
    write_shards,
)
from estimator.corpus.build import plan as plans
from estimator.corpus.build.executors import Executor
from estimator.corpus.build.pipeline import encode
from estimator.corpus.build.plan import Corpus, Options, plan
from estimator.corpus.build.text_cache import prepare_text
from estimator.corpus.build.write_shards import ShardLocation
from estimator.corpus.documents import Document, documents, documents_of
from estimator.corpus.readers import Part
from estimator.data import splits
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.shards import discovery
from estimator.shards.tfrecord import index_path, open_shard
from estimator.tokenization.tokenizer import byte_level_tokenizer, load
from inputs import open_data

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = byte_level_tokenizer()
DOCUMENTS = [Document(f"d{i}", f"document {i}: " + "word " * (i % 7) + "\u65e5<|endoftext|>") for i in range(50)]


def texts(paths: list[Path]) -> list[tuple[str, str]]:
    """Returns the (name, text) pair of every document in the shards."""
    found = []
    for shard in map(open_shard, paths):
        for i in range(len(shard)):
            name, tokens = shard.record(i)
            found.append((name.decode(), TOKENIZER.decode(tokens)))
    return found


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_lines(path: Path, documents: list[Document]) -> str:
    lines = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents)
    if not path.exists() or path.read_text() != lines:  # a file's modification time is part of its cache key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    return str(path)


@pytest.fixture
def byte_encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    TOKENIZER.save(folder)
    return str(folder)


@pytest.fixture
def make(byte_encoder, tmp_path):
    """Returns make(documents or inputs, **options) -> summaries, which encodes in this process."""

    def make(inputs, *, out=tmp_path / "out", name="x", overwrite=False, **options):
        if not isinstance(inputs, str | tuple):
            inputs = write_lines(tmp_path / "in" / "lines.jsonl", inputs)
        corpora = inputs if isinstance(inputs, tuple) else [Corpus(name, (inputs,))]
        made = encode(
            corpora,
            Options(**options),
            encoder=byte_encoder,
            out=out,
            executor=Executor(workers=1),
            overwrite=overwrite,
        )
        assert made is not None
        return made

    return make


def shards_of(folder: Path, name: str) -> list[Path]:
    return ShardLocation(folder, name).shards()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_documents_come_back_from_shards_of_the_size_asked_for(make, tmp_path):
    (summary,) = make(DOCUMENTS, shard_tokens=300, shuffle=False)
    out = tmp_path / "out"
    assert len(summary.shards) > 3
    assert summary.shards == [out / f"x_{i}.tfrecords" for i in range(len(summary.shards))]
    assert summary.shards == shards_of(out, "x")
    assert texts(summary.shards) == DOCUMENTS
    counts = [open_shard(path).token_counts for path in summary.shards]
    assert all(sum(count) >= 300 and sum(count[:-1]) < 300 for count in counts[:-1])
    assert (summary.documents, summary.skipped) == (50, {})
    assert summary.tokens == summary.bytes == sum(len(document.text.encode()) for document in DOCUMENTS)
    assert all(open_shard(path).tokenizer == TOKENIZER.digest for path in summary.shards)
    extra = {"x.json"} | {f"{path.name}.index" for path in summary.shards}
    assert {path.name for path in out.iterdir()} - {path.name for path in summary.shards} == extra


def test_an_index_written_with_a_shard_is_the_one_made_from_it(make):
    (summary,) = make([Document("a", "x" * 99), Document("b", "\u65e5" * 90_000), Document("c", "")], shuffle=False)
    path = index_path(summary.shards[0])
    written = path.read_bytes()
    path.unlink()
    open_shard(summary.shards[0])
    digest = TOKENIZER.digest.encode()
    assert path.read_bytes()[200:] == written[200:]
    assert digest in written


def test_the_shuffled_order_is_the_same_however_the_input_is_ordered(make, tmp_path):
    (first,) = make(DOCUMENTS, shard_tokens=300)
    (second,) = make(DOCUMENTS[::-1], shard_tokens=300, out=tmp_path / "b", task_bytes=500)
    assert [path.read_bytes() for path in first.shards] == [path.read_bytes() for path in second.shards]
    assert sorted(texts(first.shards)) == sorted(DOCUMENTS)
    assert texts(first.shards) not in (DOCUMENTS, DOCUMENTS[::-1])
    (third,) = make(DOCUMENTS, shard_tokens=300, seed=1, out=tmp_path / "c")
    assert texts(third.shards) != texts(first.shards)
    assert sorted(texts(third.shards)) == sorted(DOCUMENTS)


def test_short_documents_are_skipped_and_counted(make, tmp_path):
    documents = [Document("a", "x" * 9), Document("b", "x" * 10), Document("c", "")]
    (summary,) = make(documents, min_tokens=10)
    assert (summary.documents, summary.tokens) == (1, 10)
    assert summary.skipped == {"blank": 1, "shorter than min_tokens": 1}
    with pytest.raises(UserError, match="no document has 11 tokens"):
        make(documents, min_tokens=11, out=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_batches_do_not_change_what_is_written(make, tmp_path, monkeypatch):
    make(DOCUMENTS, shard_tokens=300)
    monkeypatch.setattr(sorted_runs, "BATCH_CHARS", 100)
    monkeypatch.setattr(write_shards, "BLOCK_BYTES", 100)
    monkeypatch.setattr(select_documents, "RANGE_DOCUMENTS", 7)
    make(DOCUMENTS, shard_tokens=300, out=tmp_path / "b")
    assert contents(tmp_path / "out") == contents(tmp_path / "b")


def test_compressed_shards_hold_the_same(make, tmp_path):
    (summary,) = make(DOCUMENTS, compress=True)
    assert summary.shards == [tmp_path / "out" / "x_0.tfrecords.gz"]
    (plain,) = make(DOCUMENTS, out=tmp_path / "plain")
    assert gzip.decompress(summary.shards[0].read_bytes()) == plain.shards[0].read_bytes()
    assert sorted(texts(summary.shards)) == sorted(DOCUMENTS)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_hold_the_same_documents(kind, make, tmp_path, monkeypatch):
    (records,) = make(DOCUMENTS, shard_tokens=500)
    (arrays,) = make(DOCUMENTS, shard_tokens=500, format=kind, out=tmp_path / kind)
    assert [path.suffix for path in arrays.shards] == [f".{kind}"] * len(records.shards)
    for one, other in zip(records.shards, arrays.shards, strict=True):
        shard = open_shard(one)
        ids = [np.append(shard.tokens(i), TOKENIZER.end_of_text) for i in range(len(shard))]
        loaded = np.load(other)
        found = loaded if kind == "npy" else np.concatenate([loaded[name] for name in loaded.files])
        assert np.array_equal(found, np.concatenate(ids))
    assert discovery.find([str(tmp_path / kind)]) == arrays.shards
    (again,) = make(DOCUMENTS[:9], shard_tokens=500, out=tmp_path / kind, overwrite=True)
    assert sorted(path.name for path in (tmp_path / kind).iterdir()) == [
        "x.json",
        *(name for path in again.shards for name in (path.name, f"{path.name}.index")),
    ]
    with pytest.raises(UserError, match="--gzip is for"):
        make(DOCUMENTS, format=kind, compress=True, out=tmp_path / "b")
    monkeypatch.setattr(pipeline, "vocabulary", lambda _: type("T", (), {"end_of_text": None}))
    for any_format in (kind, "tfrecord"):  # training rejects such a vocabulary for all shard formats
        with pytest.raises(UserError, match=r"no end-of-text.*eos_token in tokenizer_config\.json"):
            make(DOCUMENTS, format=any_format, out=tmp_path / "b")


def test_of_equal_documents_the_first_stays(make, tmp_path):
    twice = [DOCUMENTS[1], *DOCUMENTS, Document("again", DOCUMENTS[3].text)]
    (summary,) = make(twice, shuffle=False, task_bytes=700)
    assert texts(summary.shards) == [DOCUMENTS[1], DOCUMENTS[0], *DOCUMENTS[2:]]
    assert summary.skipped == {"exact duplicates": 2}
    (shuffled,) = make(twice, task_bytes=700, out=tmp_path / "b")
    assert sorted(texts(shuffled.shards)) == sorted(texts(summary.shards))
    (kept,) = make(twice, drop_exact_duplicates=False, out=tmp_path / "c", shard_tokens=100)
    assert sorted(texts(kept.shards)) == sorted(twice)
    assert kept.skipped == {}


def test_only_equal_digests_make_duplicates():
    first = np.array([1, 5, 5, 5, 5, 7, 7], np.uint64)
    second = np.array([0, 2, 3, 2, 3, 4, 5], np.uint64)
    assert sorted(select_documents._seen_before(first, second).tolist()) == [3, 4]


def test_nearly_equal_documents_are_dropped_when_asked(make, tmp_path):
    long = " ".join(f"word{i}" for i in range(400))
    documents = [*DOCUMENTS, Document("long", long), Document("copy", long + " end"), Document("same", long)]
    (summary,) = make(documents, drop_near_duplicates=True, shuffle=False, task_bytes=4000)
    names = [name for name, _ in texts(summary.shards)]
    assert "long" in names
    assert not {"copy", "same"} & set(names)
    assert summary.skipped["near duplicates"] >= 1
    (shuffled,) = make(documents, drop_near_duplicates=True, out=tmp_path / "b")
    assert sorted(texts(shuffled.shards)) == sorted(texts(summary.shards))


def test_a_document_stays_on_its_side_when_others_are_added(make, tmp_path):
    def sides(documents, out, **options):
        made = make(documents, split=(0.2, 0.3), out=tmp_path / out, **options)
        assert [each.split for each in made] == ["train", "valid", "test"]
        return {each.split: set(texts(each.shards)) for each in made}

    few, many = sides(DOCUMENTS[:30], "a"), sides(DOCUMENTS, "b", seed=5, task_bytes=300, shuffle=False)
    assert all(few[split] == many[split] & set(DOCUMENTS[:30]) for split in few)
    assert set().union(*many.values()) == set(DOCUMENTS)
    assert 4 <= len(many["valid"]) <= 16
    assert 6 <= len(many["test"]) <= 24
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {"x_0.tfrecords", "x_valid_0.tfrecords", "test"}
    assert (tmp_path / "a" / "test" / "x_test_0.tfrecords").is_file()
    found = discovery.find([str(tmp_path / "a")])
    assert splits.held_out(found, None) == [tmp_path / "a" / "x_valid_0.tfrecords"]
    assert len(found) == 2


@pytest.mark.parametrize("split", [(float("nan"), 0.0), (0.1, float("nan")), (-0.1, 0.2), (0.5, 0.5)])
def test_splits_are_fractions(split):
    with pytest.raises(UserError, match="below 1 together"):
        Options(split=split).check()


def test_folders_named_train_valid_and_test_are_the_splits(make, tmp_path):
    corpus = tmp_path / "corpus"
    for split in ("train", "valid", "test"):
        (corpus / split / "deep").mkdir(parents=True)
        (corpus / split / "deep" / f"{split}.txt").write_text(f"text of {split} " * 9)
    made = make(str(corpus), task_bytes=20)
    assert {each.split: {name[:5].rstrip("-") for name, _ in texts(each.shards)} for each in made} == {
        "train": {"train"},
        "valid": {"valid"},
        "test": {"test"},
    }
    assert [each.documents for each in make(str(corpus / "valid"), out=tmp_path / "one")] == [1]


def splits_of(made) -> dict[str, set[str]]:
    """Returns the names of the files of each split, which the names of the documents begin with."""
    return {each.split: {name.split("-")[0] for name, _ in texts(each.shards)} for each in made if each.shards}


@pytest.mark.parametrize("ending", ["", "/", "//", "/.", "/../corpus"])
@pytest.mark.parametrize("held_out", ["valid", "validation", "val", "eval", "dev", "evaluation", "test", "testing"])
def test_folders_that_input_text_divides_are_divided_however_the_path_is_written(ending, held_out, make, tmp_path):
    for i, folder in enumerate(("train", held_out)):
        write_lines(tmp_path / "corpus" / folder / f"of_{folder}.jsonl", [Document(f"{folder}", f"text {i} " * 9)])
    split = "test" if held_out.startswith("test") else "valid"
    assert splits_of(make(f"{tmp_path}/corpus{ending}")) == {"train": {"train"}, split: {held_out}}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_folders_in_a_bucket_are_divided_however_the_path_is_written(scheme, byte_encoder, request):
    request.getfixturevalue("bucket" if scheme == "gs" else "s3_bucket")
    root = f"{scheme}://bucket"
    for folder in ("train", "valid"):
        storage.write_bytes_atomic(f"{root}/corpus/{folder}/a.txt", f"text of {folder}".encode())
    for ending in ("", "/", "//"):
        made = plan([Corpus("x", (f"{root}/corpus{ending}",))], Options(), encoder=byte_encoder, tokenizer="")
        assert [task.split for task in made.tasks] == [0, 1], ending


def test_files_are_divided_by_their_names_as_input_text_divides_them(make, tmp_path, capfd):
    folder = tmp_path / "corpus"
    for name in ("train", "valid", "test", "notes", "wiki.train", "wiki.dev", "test-drive"):
        write_lines(folder / f"{name}.jsonl", [Document(name.replace("-", "_"), f"text of {name} " * 9)])
    expected = {
        "train": {"train", "notes", "wiki.train", "test_drive"},
        "valid": {"valid", "wiki.dev"},
        "test": {"test"},
    }
    assert splits_of(make(str(folder))) == expected
    data = open_data(
        InputConfig(input="text", data_path=str(folder), encoder_path=str(byte_folder(tmp_path))),
        n_ctx=16, n_vocab=257, cache=tmp_path / "cache",
    )  # fmt: skip
    assert len(data.evaluation._stream._documents) == 2
    files = sorted(map(str, folder.iterdir()))
    program = ("datasets/encode.py", "--encoder", byte_folder(tmp_path), "--workers", "1", "--out")
    done = run(*program, tmp_path / "a", *files, folder=tmp_path)
    assert done.stderr == (
        "by the names of files or folders, valid.jsonl, wiki.dev.jsonl for evaluation and test.jsonl for tests, not "
        "for training; to train on them, too, give them as a corpus of their own (--corpus)\n"
    )
    apart = ("--corpus", f"x={folder / 'train.jsonl'}", "--corpus", f"y={folder / 'valid.jsonl'}")
    done = run(*program, tmp_path / "b", *apart, folder=tmp_path)
    assert (done.stderr, done.stdout.count("written")) == ("", 2)


def test_names_divide_the_members_of_an_archive(tmp_path):
    for name in ("train", "valid"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [Document(name, f"text of {name} " * 9)])
    path = shutil.make_archive(str(tmp_path / "wiki"), "gztar", tmp_path / "in")
    program = ("datasets/encode.py", "--encoder", byte_folder(tmp_path), "--workers", "1", "--out", tmp_path / "out")
    for _ in range(2):  # the second finds complete shards
        done = run(*program, path, folder=tmp_path)
        assert ("valid in wiki.tar.gz for evaluation" in done.stderr) or "complete already" in done.stderr
        assert "warning" not in done.stderr
        assert "noted" not in done.stdout
    names = sorted(file.name for file in (tmp_path / "out").glob("*.tfrecords"))
    assert names == ["text_0.tfrecords", "text_valid_0.tfrecords"]


@pytest.mark.parametrize("ending", ["zip", "tar", "gztar"])
def test_an_archive_gives_the_shards_of_its_files(make, ending, tmp_path):
    for name in ("train/a", "train/b", "other/c", "valid/d", "test/e"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [Document(name, f"text {i} of {name} " * 9) for i in range(5)])
    path = shutil.make_archive(str(tmp_path / "wiki"), ending, tmp_path / "in")
    folder, packed = (
        {each.split: (each.documents, each.tokens) for each in make(given, out=tmp_path / out)}
        for given, out in ((str(tmp_path / "in"), "folder"), (path, "packed"))
    )
    assert packed == folder
    assert packed["valid"][0] == packed["test"][0] == 5


@pytest.mark.parametrize(("scheme", "ending"), [("gs", "zip"), ("gs", "gztar"), ("s3", "tar")])
def test_an_archive_in_a_bucket_is_divided_too(scheme, ending, make, tmp_path, request):
    request.getfixturevalue("bucket" if scheme == "gs" else "s3_bucket")
    for name in ("train", "valid"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [Document(name, f"text of {name} " * 9)])
    path = Path(shutil.make_archive(str(tmp_path / "wiki"), ending, tmp_path / "in"))
    storage.write_bytes_atomic(f"{scheme}://bucket/in/{path.name}", path.read_bytes())
    made = make(f"{scheme}://bucket/in")
    assert {each.split: each.documents for each in made} == {"train": 1, "valid": 1}


def byte_folder(tmp_path) -> Path:
    TOKENIZER.save(tmp_path / "bytes")
    return tmp_path / "bytes"


def test_a_fraction_that_no_name_stands_for_is_taken_from_the_training_text(make, tmp_path):
    for folder, count in (("train", 60), ("test", 5)):
        write_lines(
            tmp_path / "corpus" / folder / "a.jsonl",
            [Document(f"{folder}-{i}", f"text {i} of {folder} " * 9) for i in range(count)],
        )
    made = {each.split: each.documents for each in make(str(tmp_path / "corpus"), split=(0.3, 0.0))}
    assert made["test"] == 5
    assert made["train"] + made["valid"] == 60
    assert 8 <= made["valid"] <= 30


def test_corpora_whose_shards_would_have_one_name_are_refused(make, tmp_path):
    first, second = (
        write_lines(tmp_path / f"{name}.jsonl", DOCUMENTS[i : i + 20]) for i, name in enumerate(("one", "two"))
    )
    for split in ((0.0, 0.0), (0.3, 0.0)):
        with pytest.raises(
            UserError, match=r'"web" and "web_valid": .* called web_valid, too; give one of them another'
        ):
            make((Corpus("web_valid", (second,)), Corpus("web", (first,))), split=split)
    assert not (tmp_path / "out").exists()
    made = make((Corpus("web", (first,)), Corpus("web_tests", (second,))), split=(0.2, 0.2))
    paths = [path for each in made for path in each.shards]
    assert len(set(paths)) == len(paths)


def test_a_corpus_whose_documents_are_all_in_another_has_no_shards(byte_encoder, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", DOCUMENTS)
    program = ("datasets/encode.py", "--encoder", byte_encoder, "--workers", "1", "--out", "out")
    command = (*program, "--corpus", f"a={path}", "--corpus", f"b={path}")
    for stderr in ("", "the shards are complete already; --overwrite makes them again\n"):
        done = run(*command, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, stderr)
        assert "skipped          50 exact duplicates\n" in done.stdout
    keys = json.loads(f"{{{done.stdout.splitlines()[-1].removeprefix('in the JSON file ')}}}")
    keys["data_path"] = str(tmp_path / "out")
    n_vocab = keys.pop("n_vocab")
    data = open_data(InputConfig(**keys), n_ctx=16, n_vocab=n_vocab, cache=tmp_path / "cache")
    assert data.train.windows_per_epoch > 0


def test_corpora_have_their_own_shards_and_weights(make, tmp_path):
    first = write_lines(tmp_path / "a.jsonl", DOCUMENTS[:20])
    second = write_lines(tmp_path / "b.jsonl", DOCUMENTS[10:])
    made = make((Corpus("a", (first,), 3.0), Corpus("b", (second,))))
    assert [(each.name, each.documents, each.weight) for each in made] == [("a", 20, 3.0), ("b", 30, 1.0)]
    assert made[1].skipped == {"exact duplicates": 10}
    assert set(texts(made[0].shards)) == set(DOCUMENTS[:20])
    assert json.loads((tmp_path / "out" / "a.json").read_text())["weight"] == 3
    with pytest.raises(UserError, match="same name"):
        make((Corpus("a", (first,)), Corpus("a", (second,))))


def test_an_error_midway_leaves_nothing_behind_and_old_shards_alone(make, tmp_path):
    out = tmp_path / "out"
    broken = tmp_path / "broken.jsonl"
    write_lines(broken, DOCUMENTS)
    broken.write_text(broken.read_text() + "{")
    with pytest.raises(UserError, match="not valid JSON"):
        make(str(broken), shard_tokens=100)
    assert not out.exists()
    make(DOCUMENTS, shard_tokens=100)
    before = contents(out)
    with pytest.raises(UserError, match="not valid JSON"):
        make(str(broken), overwrite=True)
    assert contents(out) == before


def test_what_is_no_text_is_skipped_and_counted_when_asked(make, tmp_path):
    folder = tmp_path / "mixed"
    write_lines(folder / "a.jsonl", DOCUMENTS[:5])
    with open(folder / "a.jsonl", "ab") as file:
        file.write(b'{"text": 5}\n{"body": "x"}\n{"text": "\xff"}\n\n[1]\n{"te\n{"text": " "}\n')
        file.write(json.dumps({"text": "the last line"}).encode())
    (folder / "binary.txt").write_bytes(b"text \x00\x01")
    (folder / "latin.txt").write_bytes("na\u00efve text".encode("latin-1"))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"text " * 999)[:-20])
    (folder / "empty.txt").write_bytes(b"")
    (folder / "good.txt").write_text("good text")
    (summary,) = make(str(folder), skip_faults=True)
    expected = {"blank": 1, "not text": 3, "no text in the record": 3, "not valid JSON": 1, "damaged file": 1}
    assert summary.skipped == expected
    assert {text for _, text in texts(summary.shards)} == {d.text for d in DOCUMENTS[:5]} | {
        "the last line",
        "good text",
    }
    assert json.loads((tmp_path / "out" / "x.json").read_text())["skipped"] == expected
    with pytest.raises(UserError, match=r"a\.jsonl"):
        make(str(folder), overwrite=True, min_tokens=2)


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_kind_of_file_gives_the_same_text(ending, make, tmp_path):
    written = [document.text for document in DOCUMENTS[:9]]
    path = tmp_path / "in" / f"some{ending}"
    path.parent.mkdir()
    if ending == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        table = pyarrow.table({"text": written, "other": range(9)})
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=2)
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in written)
        data = (lines if ".jsonl" in ending else "".join(written)).encode()
        if ending.endswith(".gz"):
            data = gzip.compress(data)
        elif ending.endswith(".zst"):
            zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
            data = zstandard.ZstdCompressor().compress(data[:50]) + zstandard.ZstdCompressor().compress(data[50:])
            with pytest.raises(UserError, match="damaged or incomplete zstd file"):
                list(documents(str(write(tmp_path / f"cut{ending}", data[:-3]))))
        path.write_bytes(data)
    for number, options in enumerate([{}, {"task_bytes": 60}]):
        (summary,) = make(str(path), shuffle=False, out=tmp_path / str(number), **options)
        found = [text for _, text in texts(summary.shards)]
        divided = [text.removesuffix("<|endoftext|>") for text in written]
        assert found == (divided if ".txt" in ending else written)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bytes_each", [1, 7, 50, 333])
def test_the_parts_of_a_file_make_up_the_whole(bytes_each, tmp_path):
    text = "".join(f"{i} \u65e5\u672c\u8a9e na\u00efve\r\n{chr(10) * (i % 3)}" for i in range(60))
    path = write(tmp_path / "a.txt", text.encode())
    lines = write(tmp_path / "a.jsonl", b"".join(json.dumps({"text": line}).encode() + b"\n" for line in text.split()))
    for each, whole in ((path, [text]), (lines, text.split())):
        size = each.stat().st_size
        parts = [
            Part(str(each), start, start + bytes_each if start + bytes_each < size else None, number)
            for number, start in enumerate(range(0, size, bytes_each))
        ]
        found = [list(documents_of(part)) for part in parts]
        read = [document.text for each in found for document in each]
        assert ("".join(read) == text) if each is path else (read == whole)
        names = [document.name for each in found for document in each]
        assert len(set(names)) == len(names)


def test_an_error_in_a_part_of_a_file_names_the_line_of_the_file(make, tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, DOCUMENTS)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 51, column 2: not valid JSON"):
        make(str(path), task_bytes=100)


def test_text_is_repaired_when_asked(make, tmp_path):
    documents = [Document("a", "sch\u00c3\u00b6n \ufb01ne")]
    (normal,) = make(documents, normalize="NFKC")
    assert texts(normal.shards) == [("a", "sch\u00c3\u00b6n fine")]
    pytest.importorskip("ftfy", reason="ftfy is not installed")
    (fixed,) = make(documents, fix_text=True, out=tmp_path / "b")
    assert texts(fixed.shards)[0][1].startswith("sch\u00f6n")


def test_shards_are_replaced_only_when_asked_and_then_all(make, tmp_path):
    out = tmp_path / "out"
    make(DOCUMENTS, shard_tokens=100, split=(0.3, 0.3))
    (other,) = make(DOCUMENTS[:3], name="x_1", shard_tokens=100)
    with pytest.raises(UserError, match="--overwrite"):
        make(DOCUMENTS)
    (summary,) = make(DOCUMENTS, overwrite=True)
    assert shards_of(out, "x") == summary.shards == [out / "x_0.tfrecords"]
    assert shards_of(out, "x_1") == other.shards
    names = {path.name.removesuffix(".index") for path in out.iterdir()}
    assert names == {"x.json", "x_1.json"} | {path.name for path in [*summary.shards, *other.shards]}
    (out / "x.json").write_text('{"n_ctx": 64}')
    with pytest.raises(UserError, match=r"x.json is damaged or of something else.*; move it elsewhere"):
        make(DOCUMENTS, overwrite=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("bytes", None), ("tokens", True), ("documents", -1), ("documents", 1), ("skipped", 5), ("skipped", {"a": []}),
     ("noted", True), ("shards", {}), ("split", -1), ("weight", "1")],
)  # fmt: skip
def test_a_list_of_shards_that_was_changed_is_named_and_can_be_made_again(key, value, make, tmp_path):
    whole = make(DOCUMENTS)
    path = tmp_path / "out" / "x.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"(x.json is damaged: {key} is |--overwrite)"):
        make(DOCUMENTS)
    assert make(DOCUMENTS, overwrite=True) == whole


def test_a_command_that_is_done_already_does_nothing(make, tmp_path, monkeypatch, capsys):
    first = make(DOCUMENTS, shard_tokens=100, split=(0.3, 0.3))
    monkeypatch.setattr(pipeline, "write_run", None)
    before = contents(tmp_path / "out")
    corpora = (Corpus("x", (str(tmp_path / "in" / "lines.jsonl"),)),)
    assert "complete already" not in capsys.readouterr().err
    assert make(corpora, shard_tokens=100, split=(0.3, 0.3)) == first
    assert "the shards are complete already; --overwrite makes them again" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["journal.json", "choice.json"])
def test_a_disk_that_fails_once_takes_no_shards_and_no_work_away(make, tmp_path, monkeypatch, name):
    expected = make(DOCUMENTS, shard_tokens=100)
    whole = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    read, fails = Path.read_bytes, iter([True])

    def failing(path):
        data = read(path)
        if path.name == name and next(fails, False):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return data

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(OSError, match=name):
        make(DOCUMENTS, shard_tokens=100)
    assert any((tmp_path / "out").rglob("runs/*.json"))
    assert make(DOCUMENTS, shard_tokens=100) == expected
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("moved", range(9))
def test_a_kill_while_shards_are_moved_is_noticed_and_finished(make, tmp_path, monkeypatch, moved):
    class Killed(BaseException):
        pass

    out, replace = tmp_path / "out", os.replace
    make(DOCUMENTS[:30], shard_tokens=300)
    inputs = (Corpus("x", (write_lines(tmp_path / "all.jsonl", DOCUMENTS),)),)
    count = iter(range(moved))

    def until_killed(source, target):
        if Path(target).parent == out and next(count, None) is None:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(write_shards.os, "replace", until_killed)
        with pytest.raises(Killed):
            make(inputs, shard_tokens=500, overwrite=True)
    with pytest.raises(UserError, match=r"no shards|encode.py was interrupted .* run it again"):
        discovery.find([str(out)])
    (whole,) = make(inputs, shard_tokens=500, overwrite=True)
    assert discovery.find([str(out)]) == whole.shards
    assert not (out / ".x.partial").exists()
    make(inputs, shard_tokens=500, out=tmp_path / "b")
    assert contents(out) == contents(tmp_path / "b")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_gets_the_same_shards_whenever_the_copying_was_stopped(
    scheme, byte_encoder, make, tmp_path, request, monkeypatch
):
    request.getfixturevalue("bucket" if scheme == "gs" else "s3_bucket")
    root = f"{scheme}://bucket"
    lines = Path(write_lines(tmp_path / "in" / "lines.jsonl", DOCUMENTS))
    storage.upload(lines, f"{root}/in/lines.jsonl")
    options = {"encoder": byte_encoder, "out": f"{root}/out", "executor": Executor(workers=1), "work": tmp_path / "w"}
    corpora, some = [Corpus("x", (f"{root}/in",))], Options(shard_tokens=300, split=(0.2, 0.2))
    upload, count = storage.upload, iter(range(3))

    def until_stopped(local, path):
        if next(count, None) is None:
            raise KeyboardInterrupt
        upload(local, path)

    monkeypatch.setattr(to_bucket.storage, "upload", until_stopped)
    with pytest.raises(KeyboardInterrupt):
        to_bucket.encode(corpora, some, **options)
    monkeypatch.setattr(to_bucket.storage, "upload", upload)
    assert not storage.exists(f"{root}/out/x.json")
    made = to_bucket.encode(corpora, some, **options)
    assert [each.split for each in made] == ["train", "valid", "test"]
    assert not list((tmp_path / "w").iterdir())
    local = make(str(tmp_path / "in"), shard_tokens=300, split=(0.2, 0.2))
    assert made[0].shards == [f"{root}/out/{path.name}" for path in local[0].shards]
    below = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path.removeprefix(f"{root}/out/") for path in storage.listing(f"{root}/out")} == below
    for name in below - {"x.json", "x_valid.json", "test/x_test.json"}:
        assert storage.read_bytes(f"{root}/out/{name}") == (tmp_path / "out" / name).read_bytes()
    assert to_bucket.encode(corpora, some, **options) == made
    with pytest.raises(UserError, match="--overwrite"):
        to_bucket.encode(corpora, Options(), **options)
    (whole,) = to_bucket.encode(corpora, Options(), overwrite=True, **options)
    assert whole.documents == 50
    listed = {path.removeprefix(f"{root}/out/") for path in storage.listing(f"{root}/out")}
    assert listed == {"x.json", "x_0.tfrecords", "x_0.tfrecords.index"}


def test_what_encode_prints_for_the_json_file_trains_on_each_corpus_by_its_weight(byte_encoder, tmp_path):
    first, second = (
        write_lines(tmp_path / f"{letter}.jsonl", [Document(str(i), letter * (20 + i)) for i in range(25)])
        for letter in "ab"
    )
    corpora = ("--corpus", f"a={first}:3", "--corpus", f"a_b={second}")
    program = ("datasets/encode.py", "--out", tmp_path / "out", "--encoder", byte_encoder, "--workers", "1")
    done = run(*program, *corpora, "--split", "valid=0.2", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    keys = json.loads(f"{{{done.stdout.splitlines()[-1].removeprefix('in the JSON file ')}}}")
    assert keys["input"] == "packed"
    assert keys["dataset"] == [[["a_[0-9]*", "a_valid_*"], 3.0], [["a_b_*"], 1.0]]
    n_vocab = keys.pop("n_vocab")
    data = open_data(InputConfig(**keys), n_ctx=16, n_vocab=n_vocab, cache=tmp_path / "cache")
    windows = [set(TOKENIZER.decode(data.train[i])) & {"a", "b"} for i in range(8)]
    assert (windows.count({"a"}), windows.count({"b"})) == (6, 2)
    done = run(*program, "--name", "c", first, folder=tmp_path)
    assert done.stderr == ""
    line = f'"input": "packed", "data_path": "{tmp_path / "out"}", "encoder_path": "{byte_encoder}", "n_vocab": 257'
    assert done.stdout.splitlines()[-1] == f"in the JSON file {line}"


@pytest.mark.parametrize("names", [("a[1]", "b"), ("a*", "a*_b"), ("a?", "ab")])
def test_names_with_characters_of_patterns_are_printed_so_that_training_finds_their_shards(
    names, byte_encoder, tmp_path
):
    program = ["datasets/encode.py", "--out", tmp_path / "out", "--encoder", byte_encoder, "--workers", "1"]
    for i, name in enumerate(names):
        path = write_lines(tmp_path / f"{i}.jsonl", [Document(str(j), "xy"[i] * (200 + j)) for j in range(10)])
        program += ["--corpus", f"{name}={path}"]
    done = run(*program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    keys = json.loads(f"{{{done.stdout.splitlines()[-1].removeprefix('in the JSON file ')}}}")
    n_vocab = keys.pop("n_vocab")
    data = open_data(InputConfig(**keys, eval_split=0), n_ctx=16, n_vocab=n_vocab, cache=tmp_path / "cache")
    windows = [set(TOKENIZER.decode(data.train[i])) & {"x", "y"} for i in range(8)]
    assert (windows.count({"x"}), windows.count({"y"})) == (4, 4)


@pytest.mark.parametrize("name", ["", "a/b", "../x"])
def test_names_that_are_paths_are_refused(name, make):
    with pytest.raises(UserError, match="plain file name"):
        make(DOCUMENTS, name=name)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return path


def test_text_is_prepared_once_and_again_when_it_changes(text_file, tmp_path, capsys):
    cache = tmp_path / "cache"
    prepared = prepare_text(str(text_file), n_vocab=280, encoder_path=None, cache=cache)
    assert "learning a vocabulary of 280" in capsys.readouterr().out
    tokenizer = load(prepared.encoder)
    assert tokenizer.n_vocab == 280
    shard = open_shard(prepared.shards[0])
    assert shard.tokenizer == tokenizer.digest
    assert tokenizer.decode(shard.tokens(0)) == text_file.read_text()
    written = {path: path.stat().st_mtime_ns for path in [*prepared.shards, prepared.encoder / "tokenizer.json"]}

    assert prepare_text([str(text_file)], n_vocab=280, encoder_path=None, cache=cache) == prepared
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in written} == written

    text_file.write_text("other text\n" * 100)
    prepared = prepare_text(str(text_file), n_vocab=280, encoder_path=None, cache=cache)
    assert "changed" in capsys.readouterr().out
    assert load(prepared.encoder).decode(open_shard(prepared.shards[0]).tokens(0)) == text_file.read_text()
    prepare_text(str(text_file), n_vocab=270, encoder_path=None, cache=cache)
    assert load(prepared.encoder).n_vocab <= 270
    os.truncate(prepared.shards[0], 10)
    prepare_text(str(text_file), n_vocab=270, encoder_path=None, cache=cache)
    assert "missing" in capsys.readouterr().out
    assert len(open_shard(prepared.shards[0])) == 1


def test_a_newer_python_changes_its_documentation_but_not_the_vocabulary_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(python_docs, "documents", lambda: iter([("a", "old words " * 50)]))
    options = {"n_vocab": 270, "encoder_path": None, "cache": tmp_path / "cache"}
    first = load(prepare_text("python-docs", **options).encoder)
    first.save(tmp_path / "own")
    monkeypatch.setattr(python_docs, "documents", lambda: iter([("a", "new text " * 50)]))
    monkeypatch.setattr(cache_records.platform, "python_version", lambda: "9.9.9")
    capsys.readouterr()
    again = prepare_text("python-docs", **options, own=tmp_path / "own")
    assert "keeping the run's vocabulary" in capsys.readouterr().out
    assert load(again.encoder).digest == open_shard(again.shards[0]).tokenizer == first.digest
    assert load(again.encoder).decode(open_shard(again.shards[0]).tokens(0)) == "new text " * 50
    assert load(prepare_text("python-docs", **options).encoder).digest != first.digest


def test_text_is_prepared_with_the_vocabulary_given(text_file, tmp_path):
    TOKENIZER.save(tmp_path / "bytes")
    prepared = prepare_text(str(text_file), n_vocab=300, encoder_path=str(tmp_path / "bytes"), cache=tmp_path / "cache")
    assert prepared.encoder == tmp_path / "bytes"
    assert texts(prepared.shards) == [("own", text_file.read_text())]
    assert not (tmp_path / "cache" / "encoder").exists()
    with pytest.raises(UserError, match=r"n_vocab is 256.*set n_vocab to 257"):
        prepare_text(str(text_file), n_vocab=256, encoder_path=str(tmp_path / "bytes"), cache=tmp_path / "c")
    with pytest.raises(UserError, match=r"n_vocab is 200.*257"):
        prepare_text(str(text_file), n_vocab=200, encoder_path=None, cache=tmp_path / "c")


@pytest.mark.parametrize(("name", "is_read_otherwise"), [("a.jsonl", True), ("a.txt", False)])
def test_shards_of_conversations_that_an_earlier_version_read_are_made_again_if_asked(
    name, is_read_otherwise, tmp_path, monkeypatch
):
    chat_template.extended(TOKENIZER).save(tmp_path / "encoder")
    lines = {"a.jsonl": '{"prompt": "Hello", "completion": "Hi"}\n', "a.txt": "1|Ann|Hello <EOM>\n0|Ann|Hi <EOM>\n"}
    (tmp_path / name).write_text(lines[name])
    corpora, options = [Corpus("chats", (str(tmp_path / name),))], Options(kind="chat-other")
    facts = {"encoder": str(tmp_path / "encoder"), "out": tmp_path / "out", "executor": Executor("local", 1)}
    with monkeypatch.context() as patch:
        patch.setattr(plans, "CHATS_FORMAT", 2)
        encode(corpora, options, **facts, quiet=True)
    if is_read_otherwise:
        with pytest.raises(UserError, match="an earlier version that read it otherwise; use --overwrite"):
            encode(corpora, options, **facts, quiet=True)
    encode(corpora, options, **facts, quiet=True, overwrite=True)
    encode(corpora, options, **facts, quiet=True)


@pytest.mark.parametrize(("name", "is_read_otherwise"), [("a.json", True), ("a.jsonl", False)])
def test_caches_of_versions_that_read_records_in_another_way_are_made_again(name, is_read_otherwise, tmp_path, capsys):
    (tmp_path / name).write_text(json.dumps({"text": "a text " * 50, "comments": [{"text": "a comment"}]}) + "\n")
    options = {"n_vocab": 257, "encoder_path": None, "cache": tmp_path / "cache"}
    prepare_text(str(tmp_path / name), **options)
    record = json.loads((tmp_path / "cache" / "prepared.json").read_text())
    assert (record["fingerprint"].pop("records", None) == cache_records.RECORDS_FORMAT) == is_read_otherwise
    (tmp_path / "cache" / "prepared.json").write_text(json.dumps(record))
    capsys.readouterr()
    prepared = prepare_text(str(tmp_path / name), **options)
    assert ("how it is read has changed" in capsys.readouterr().out) == is_read_otherwise
    assert [load(prepared.encoder).decode(open_shard(path).tokens(0)) for path in prepared.shards] == ["a text " * 50]


@pytest.mark.parametrize(("name", "is_read_otherwise"), [("a.jsonl", True), ("a.txt", False)])
def test_caches_of_versions_that_read_conversations_in_another_way_are_made_again(
    name, is_read_otherwise, tmp_path, capsys
):
    texts = {"a.jsonl": json.dumps({"conversation": [{"assistant": "Ho", "human": "Hi"}]}), "a.txt": "1|a|Hi\n0|a|Ho"}
    (tmp_path / name).write_text(texts[name] + "\n")
    TOKENIZER.save(tmp_path / "bytes")
    options = {"n_vocab": 300, "encoder_path": str(tmp_path / "bytes"), "cache": tmp_path / "cache"}
    options["options"] = text_cache.OPTIONS._replace(kind="chat-other")
    prepare_text(str(tmp_path / name), **options)
    record = json.loads((tmp_path / "cache" / "prepared.json").read_text())
    record["fingerprint"]["records"] = 2
    (tmp_path / "cache" / "prepared.json").write_text(json.dumps(record))
    capsys.readouterr()
    prepare_text(str(tmp_path / name), **options)
    assert ("how it is read has changed" in capsys.readouterr().out) == is_read_otherwise


def die_at(name, die):
    write = storage.write_bytes_atomic
    return lambda path, data: die() if str(path).endswith(name) else write(path, data)


@pytest.mark.parametrize("dies_in", ["train_byte_bpe", "encode", "record"])
def test_preparation_killed_at_any_point_is_done_again(dies_in, text_file, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    cache = tmp_path / "cache"
    options = {"n_vocab": 270, "encoder_path": None, "cache": cache}
    prepare_text(str(text_file), **options)
    if dies_in == "train_byte_bpe":
        (cache / "encoder" / "tokenizer.json").unlink()
    text_file.write_text("new text for a new vocabulary\n" * 50)
    with monkeypatch.context() as patch:
        if dies_in == "record":
            patch.setattr(cache_records.storage, "write_bytes_atomic", die_at("prepared.json", die))
        else:
            patch.setattr(text_cache, dies_in, die)
        with pytest.raises(Killed):
            prepare_text(str(text_file), **options)
    assert not (cache / "prepared.json").exists()
    prepared = prepare_text(str(text_file), **options)
    tokenizer = load(prepared.encoder)
    assert [tokenizer.decode(open_shard(path).tokens(0)) for path in prepared.shards] == [text_file.read_text()]
    assert open_shard(prepared.shards[0]).tokenizer == tokenizer.digest


def test_several_processes_prepare_the_same_text_once(text_file, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from estimator.corpus.build.text_cache import prepare_text; "
        "prepare_text(sys.argv[2], n_vocab=270, encoder_path=None, cache=Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(text_file), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    output = "".join(process.communicate(timeout=600)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert output.count("learning a vocabulary") == 1


def test_programs_make_a_vocabulary_and_shards_from_any_folder(text_file, tmp_path):
    (tmp_path / "lines.jsonl").write_text(json.dumps({"body": "the dog"}) + "\n")
    result = run("datasets/train_tokenizer.py", "own.txt", "--out", "enc", "--vocab_size", "270", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "270 entries" in result.stdout
    result = run("datasets/train_tokenizer.py", "own.txt", "--out", "enc", "--vocab_size", "270", folder=tmp_path)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    encode = ("datasets/encode.py", "own.txt", "--out", "data", "--encoder", "enc", "--name", "mine")
    result = run(*encode, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "documents        1" in result.stdout
    tokenizer = load(tmp_path / "enc")
    shard = open_shard(tmp_path / "data" / "mine_0.tfrecords")
    assert tokenizer.decode(shard.tokens(0)) == text_file.read_text()
    assert f"tokens           {shard.token_counts[0]:,}" in result.stdout
    assert run(*encode, folder=tmp_path).returncode == 0
    result = run(*encode, "lines.jsonl", "--text_key", "body", folder=tmp_path)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    result = run(*encode, "lines.jsonl", "--text_key", "body", "--gzip", "--overwrite", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in shards_of(tmp_path / "data", "mine")] == ["mine_0.tfrecords.gz"]


def test_program_writes_the_python_documentation_as_files(tmp_path):
    result = run("datasets/python_docs.py", "--out", "docs", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    files = sorted((tmp_path / "docs").iterdir())
    assert f"{len(files)} files" in result.stdout
    assert {path.suffix for path in files} == {".txt"}
    assert (tmp_path / "docs" / "topic-with.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.txt", "--out", "data"), "none.txt: no such file"),
        (
            ("own.txt", "--out", "data", "--encoder", "none"),
            "none: no such vocabulary folder; `python3 download_model.py",
        ),
        (("binary.txt", "--out", "data"), "binary.txt: not UTF-8 text at byte 4"),
        (("own.txt", "--out", "data", "--min_tokens", "0"), "--min_tokens"),
        (("own.txt", "--out", "own.txt"), "own.txt"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(arguments, message, text_file, tmp_path):
    TOKENIZER.save(tmp_path / "encoder")
    (tmp_path / "binary.txt").write_bytes(b"text\xff")
    result = run("datasets/encode.py", *arguments, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "data").exists() or everything(tmp_path / "data") == []


def test_text_and_its_programs_never_import_jax(tmp_path):
    programs = sorted((ROOT / "datasets").glob("*.py"))
    folders = [ROOT / "estimator" / name for name in ("corpus", "corpus/build", "shards", "storage", "tokenization")]
    paths = [path.relative_to(ROOT) for folder in folders for path in folder.glob("[a-z]*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "".join(f"import {module}\n" for module in modules)
    code += "".join(f"runpy.run_path({str(path)!r}, run_name='program')\n" for path in programs)
    code += "from estimator.tokenization.tokenizer import byte_level_tokenizer as tokenizer\n"
    code += "tokenizer().encode_batch(['a'])\n"
    code += "print([name for name in sys.modules if name.split('.')[0] in ('jax', 'jaxlib', 'torch', 'tensorflow')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_memory_is_bounded_by_a_batch(make, monkeypatch):
    held = []
    monkeypatch.setattr(sorted_runs, "BATCH_CHARS", 1000)
    encode_utf8 = type(TOKENIZER).encode_utf8

    def watched(self, batch):
        held.append(sum(map(len, batch)))
        return encode_utf8(self, batch)

    monkeypatch.setattr(type(TOKENIZER), "encode_utf8", watched)
    make([Document("d", f"{i:100}") for i in range(500)])
    assert np.max(held) <= 1100
    assert np.sum(held) == 50_000
