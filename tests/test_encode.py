"""Text to shards: what is read is written, nothing is left half-done, caches are made once, programs run anywhere."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import shards
from runtime.errors import UserError
from runtime.tfrecord import open_shard
from text import prepare
from text.corpus import Document
from text.prepare import encode_corpus, existing_shards, prepare_text
from text.tokenizers import byte_level_tokenizer, load

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = byte_level_tokenizer()
DOCUMENTS = [Document(f"d{i}", f"document {i}: " + "word " * (i % 7) + "\u65e5<|endoftext|>") for i in range(50)]


def texts(paths: list[Path]) -> list[tuple[str, str]]:
    """(name, text) of every document of some shards."""
    found = []
    for shard in map(open_shard, paths):
        for i in range(len(shard)):
            name, tokens = shard.record(i)
            found.append((name.decode(), TOKENIZER.decode(tokens)))
    return found


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_documents_come_back_from_shards_of_the_size_asked_for(tmp_path):
    summary = encode_corpus(iter(DOCUMENTS), TOKENIZER, out=tmp_path, name="x", shard_tokens=300)
    assert len(summary.shards) > 3
    assert summary.shards == [tmp_path / f"x_{i}.tfrecords" for i in range(len(summary.shards))]
    assert summary.shards == existing_shards(tmp_path, "x")
    assert texts(summary.shards) == DOCUMENTS
    counts = [open_shard(path).token_counts for path in summary.shards]
    assert all(sum(count) >= 300 and sum(count[:-1]) < 300 for count in counts[:-1])
    assert (summary.documents, summary.skipped) == (50, 0)
    assert summary.tokens == summary.bytes == sum(len(document.text.encode()) for document in DOCUMENTS)
    assert all(open_shard(path).tokenizer == TOKENIZER.digest for path in summary.shards)
    extra = {"x.json"} | {f"{path.name}.index" for path in summary.shards}
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in summary.shards} <= extra


def test_short_documents_are_skipped_and_counted(tmp_path):
    documents = [Document("a", "x" * 9), Document("b", "x" * 10), Document("c", "")]
    summary = encode_corpus(documents, TOKENIZER, out=tmp_path, name="x", min_tokens=10)
    assert (summary.documents, summary.skipped, summary.tokens) == (1, 2, 10)
    with pytest.raises(UserError, match="no document has 11 tokens"):
        encode_corpus(documents, TOKENIZER, out=tmp_path / "y", name="x", min_tokens=11)
    assert everything(tmp_path / "y") == []


def test_batches_do_not_change_what_is_written(tmp_path, monkeypatch):
    progress = []
    whole = encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path / "a", name="x", shard_tokens=300)
    monkeypatch.setattr(prepare, "BATCH_CHARS", 100)
    pieces = encode_corpus(
        DOCUMENTS, TOKENIZER, out=tmp_path / "b", name="x", shard_tokens=300, progress=progress.append
    )
    assert [path.read_bytes() for path in pieces.shards] == [path.read_bytes() for path in whole.shards]
    assert len(progress) > 10
    assert progress[-1] == pieces._replace(shards=[])


def test_compressed_shards_hold_the_same(tmp_path):
    summary = encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", compress=True)
    assert summary.shards == [tmp_path / "x_0.tfrecords.gz"]
    plain = encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path / "plain", name="x")
    assert gzip.decompress(summary.shards[0].read_bytes()) == plain.shards[0].read_bytes()
    assert texts(summary.shards) == DOCUMENTS


def test_an_error_midway_leaves_nothing_behind_and_old_shards_alone(tmp_path):
    def failing():
        yield from DOCUMENTS
        raise UserError("broken file")

    with pytest.raises(UserError, match="broken file"):
        encode_corpus(failing(), TOKENIZER, out=tmp_path, name="x", shard_tokens=100)
    assert everything(tmp_path) == []
    encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", shard_tokens=100)
    before = {path: path.read_bytes() for path in existing_shards(tmp_path, "x")}
    with pytest.raises(UserError, match="broken file"):
        encode_corpus(failing(), TOKENIZER, out=tmp_path, name="x", overwrite=True)
    assert {path: path.read_bytes() for path in existing_shards(tmp_path, "x")} == before


def test_shards_are_replaced_only_when_asked_and_then_all(tmp_path):
    encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", shard_tokens=100)
    other = encode_corpus(DOCUMENTS[:3], TOKENIZER, out=tmp_path, name="x_1", shard_tokens=100)
    with pytest.raises(UserError, match="--overwrite"):
        encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x")
    summary = encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", overwrite=True)
    assert existing_shards(tmp_path, "x") == summary.shards == [tmp_path / "x_0.tfrecords"]
    assert existing_shards(tmp_path, "x_1") == other.shards
    names = {path.name.removesuffix(".index") for path in tmp_path.iterdir()}
    assert names == {"x.json", "x_1.json"} | {path.name for path in [*summary.shards, *other.shards]}
    (tmp_path / "x.json").write_text('{"n_ctx": 64}')
    with pytest.raises(UserError, match=r"x.json is where the list of the shards belongs; rename it"):
        encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", overwrite=True)


@pytest.mark.parametrize("moved", range(6))
def test_a_kill_while_shards_are_moved_is_noticed(tmp_path, monkeypatch, moved):
    class Killed(BaseException):
        pass

    encode_corpus(DOCUMENTS[:30], TOKENIZER, out=tmp_path, name="x", shard_tokens=300)
    count, replace = iter(range(moved)), os.replace

    def until_killed(source, target):
        if Path(target).parent == tmp_path and next(count, None) is None:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(prepare.os, "replace", until_killed)
        patch.setattr(prepare.shutil, "rmtree", lambda *_, **__: None)  # which a killed process does not do either
        with pytest.raises(Killed):
            encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", shard_tokens=300, overwrite=True)
    with pytest.raises(UserError, match=r"no shards|encode.py was interrupted .* run it again"):
        shards.find([str(tmp_path)])
    whole = encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name="x", shard_tokens=300, overwrite=True)
    assert shards.find([str(tmp_path)]) == whole.shards
    assert not (tmp_path / ".x.partial").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../x"])
def test_names_that_are_paths_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="plain file name"):
        encode_corpus(DOCUMENTS, TOKENIZER, out=tmp_path, name=name)


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


def test_a_newer_python_changes_its_documentation_but_not_the_vocabulary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare.corpus.python_docs, "documents", lambda: iter([("a", "old words " * 50)]))
    options = {"n_vocab": 270, "encoder_path": None, "cache": tmp_path}
    first = load(prepare_text("python-docs", **options).encoder).digest
    monkeypatch.setattr(prepare.corpus.python_docs, "documents", lambda: iter([("a", "new text " * 50)]))
    monkeypatch.setattr(prepare.platform, "python_version", lambda: "9.9.9")
    capsys.readouterr()
    again = prepare_text("python-docs", **options)
    assert "keeping the vocabulary learnt before" in capsys.readouterr().out
    assert load(again.encoder).digest == open_shard(again.shards[0]).tokenizer == first
    assert load(again.encoder).decode(open_shard(again.shards[0]).tokens(0)) == "new text " * 50


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


@pytest.mark.parametrize("dies_in", ["train_byte_bpe", "encode_corpus", "record"])
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
            patch.setattr(
                prepare.os, "replace", lambda a, b: die() if str(b).endswith("prepared.json") else os.rename(a, b)
            )
        else:
            patch.setattr(prepare, dies_in, die)
        with pytest.raises(Killed):
            prepare_text(str(text_file), **options)
    assert not (cache / "prepared.json").exists()
    prepared = prepare_text(str(text_file), **options)
    tokenizer = load(prepared.encoder)
    assert [tokenizer.decode(open_shard(path).tokens(0)) for path in prepared.shards] == [text_file.read_text()]
    assert open_shard(prepared.shards[0]).tokenizer == tokenizer.digest


def test_several_processes_prepare_the_same_text_once(text_file, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from text.prepare import prepare_text; "
        "prepare_text(sys.argv[2], n_vocab=270, encoder_path=None, cache=Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(text_file), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    output = "".join(process.communicate(timeout=60)[0] for process in processes)
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
    result = run(*encode, folder=tmp_path)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    result = run(*encode, "lines.jsonl", "--text_key", "body", "--gzip", "--overwrite", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in existing_shards(tmp_path / "data", "mine")] == ["mine_0.tfrecords.gz"]


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
    modules = [f"text.{path.stem}" for path in (ROOT / "text").glob("[a-z]*.py")]
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "".join(f"import {module}\n" for module in modules)
    code += "".join(f"runpy.run_path({str(path)!r}, run_name='program')\n" for path in programs)
    code += "from text.tokenizers import byte_level_tokenizer; byte_level_tokenizer().encode_batch(['a'])\n"
    code += "print([name for name in sys.modules if name.split('.')[0] in ('jax', 'jaxlib', 'torch', 'tensorflow')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_memory_is_bounded_by_a_batch(monkeypatch, tmp_path):
    held = []
    monkeypatch.setattr(prepare, "BATCH_CHARS", 1000)
    encode = type(TOKENIZER).encode_batch

    def watched(self, batch):
        held.append(sum(map(len, batch)))
        return encode(self, batch)

    monkeypatch.setattr(type(TOKENIZER), "encode_batch", watched)
    encode_corpus((Document("d", "x" * 100) for _ in range(500)), TOKENIZER, out=tmp_path, name="x")
    assert np.max(held) <= 1100
    assert np.sum(held) == 50_000
