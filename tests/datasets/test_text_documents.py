"""The same files yield the same documents through `input: text` and through encode.py, with all of its keys."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.corpus.build import text_cache
from estimator.data import text_input
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.shards.tfrecord import open_shard
from estimator.tokenization import special_text
from estimator.tokenization.tokenizer import byte_level_tokenizer, load, with_special_tokens

ROOT = Path(__file__).resolve().parents[2]
START = "<|startoftext|>"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    with_special_tokens(byte_level_tokenizer(), [START]).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text(f"{START}first\nline two<|endoftext|>{START}second\n")
    records = [{"data": {"text": f"record {i}"}, "title": f"title {i}"} for i in range(3)] + [{"data": {"text": None}}]
    (folder / "b.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (folder / "c.md").write_text("not read")
    return folder


def texts(paths, encoder: str) -> list[str]:
    tokenizer = load(encoder)
    return [tokenizer.decode(shard.tokens(i)) for shard in map(open_shard, paths) for i in range(len(shard))]


KEYS = {"text_key": ["title", "data.text"], "on_error": "skip", "special": [START]}


@pytest.mark.parametrize("keys", [KEYS, KEYS | {"documents": "line"}, KEYS | {"separator": "second"}])
def test_both_ways_give_the_same_documents(keys, folder, encoder, tmp_path, capfd):
    config = InputConfig(input="text", data_path=str(folder), encoder_path=encoder, **keys)
    made, *_ = text_input.prepared(config, n_vocab=300, folder=text_input.folder(config, n_vocab=300, cache=tmp_path))
    found = texts(map(Path, made.data_path), encoder)
    said = capfd.readouterr().out
    assert 'left out of data_path: 1 .md file; name text among them by a pattern too: "FOLDER/**/*.md"\n' in said
    assert "1 no text in the record" in said
    if keys is KEYS:
        ids = open_shard(made.data_path[0]).tokens(0).tolist()
        assert ids[0] == load(encoder).special_tokens[START]
        assert [text.removeprefix(START) for text in found[:2]] == ["first\nline two", "second"]
        assert found[2:] == [f"title {i}\n\nrecord {i}" for i in range(3)]
        assert "1 <|endoftext|> between texts, which divided them" in said
    options = [
        f"--{key}={value}"
        for key, values in keys.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    command = [
        sys.executable,
        ROOT / "datasets/encode.py",
        folder,
        "--encoder",
        encoder,
        "--out",
        tmp_path / "out",
        *options,
    ]
    run = subprocess.run(
        [*command, "--order=input", "--exact_duplicates=keep"], capture_output=True, text=True, check=True
    )
    assert texts(sorted((tmp_path / "out").glob("*.tfrecords")), encoder) == found
    assert "1 .md file, " in run.stdout
    assert "1 no text in the record" in run.stdout


def test_keys_that_change_have_their_own_cache_and_what_was_prepared_stays(folder, encoder, tmp_path):
    """The cache directories and fingerprints match those of versions that did not have these keys."""
    plain = InputConfig(input="text", data_path="texts", encoder_path="encoder")
    before = text_cache.folder_for(tmp_path, "texts", None, "encoder", 300)
    before.mkdir()
    assert text_input.folder(plain, n_vocab=300, cache=tmp_path) == before
    assert text_cache.OPTIONS.identity() == {
        "kind": "plain", "text_key": "text", "fix_text": False, "normalize": None, "min_tokens": 1,
        "drop_exact_duplicates": False, "drop_near_duplicates": False, "split": (0.0, 0.0), "shuffle": False, "seed": 0,
        "shard_tokens": 100_000_000, "format": "tfrecord", "compress": False, "skip_faults": False,
        "task_bytes": 1 << 26,
    }  # fmt: skip
    folders = {
        text_input.folder(InputConfig(input="text", data_path="texts", **keys), n_vocab=300, cache=tmp_path)
        for keys in [{}, {"text_key": "body"}, {"separator": ""}, {"documents": "line"}, {"text_encoding": "cp1252"}]
    }
    assert len(folders) == 5


def test_a_null_ends_with_the_place_and_the_way_out(folder, encoder, tmp_path):
    config = InputConfig(input="text", data_path=str(folder / "b.json.gz"), encoder_path=encoder, text_key="data.text")
    with pytest.raises(
        UserError, match=r'b\.json\.gz, line 4: the value of "data.text" is not text, but null.*"on_error"'
    ):
        text_input.prepared(config, n_vocab=300, folder=tmp_path)


def test_special_tokens_are_read_in_texts_and_prompts(encoder, folder, tmp_path):
    tokenizer = load(encoder)
    reading = special_text.reading(tokenizer, [START])
    start = tokenizer.special_tokens[START]
    assert reading.encode(f"a{START}b") == [*tokenizer.encode("a"), start, *tokenizer.encode("b")]
    found = reading.encode_utf8([b"plain", f"{START}x".encode(), b"end"])
    assert [ids.tolist() for ids in found] == [
        tokenizer.encode("plain"),
        [start, *tokenizer.encode("x")],
        tokenizer.encode("end"),
    ]
    assert (reading.n_vocab, reading.end_of_text, reading.digest) == (
        tokenizer.n_vocab,
        tokenizer.end_of_text,
        tokenizer.digest,
    )
    with pytest.raises(UserError, match=r"special: the vocabulary has no special token <x>"):
        special_text.reading(tokenizer, ["<x>"])
    config = InputConfig(input="text", data_path=str(folder / "a.txt"), special=[START])
    made, *_ = text_input.prepared(config, n_vocab=259, folder=tmp_path)
    assert START in load(made.encoder_path).special_tokens
