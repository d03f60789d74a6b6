"""Caches of prepared text: found again whatever the vocabulary, shared by runs, and healed where they are broken."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.chats import FORMS

from estimator.corpus.build import text_cache
from estimator.corpus.build.text_cache import OPTIONS, Prepared, prepare_text
from estimator.data import text_input
from estimator.data.config import InputConfig
from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.shards.tfrecord import open_shard
from estimator.storage import locks
from estimator.tokenization.tokenizer import byte_level_tokenizer, load, with_special_tokens
from estimator.tokenization.train_sentencepiece import train_sentencepiece
from estimator.tokenization.vocab_files import BYTE_VOCAB
from inputs import open_data

WORDS = "the quick brown fox jumps over the lazy dog\n" * 100


def byte_level(folder: Path) -> None:
    byte_level_tokenizer().save(folder)


def pair(folder: Path) -> None:
    folder.mkdir()
    (folder / "encoder.json").write_text(json.dumps(BYTE_VOCAB | {"th": 256, "<|endoftext|>": 257}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nt h\n")


def sentencepiece(folder: Path) -> None:
    train_sentencepiece(iter([WORDS]), n_vocab=290, out=folder)


def wordpiece(folder: Path) -> None:
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = ["<unk>", "<s>", "</s>", "<pad>", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(entries))


CHAT = OPTIONS._replace(kind="chat-other")
KINDS: list[Callable[[Path], None]] = [byte_level, pair, sentencepiece, wordpiece]


def made(folder: Path) -> dict[Path, int]:
    """Returns when each file of a cache was written, but the lock."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    ("make", "options"),
    [*((kind, OPTIONS) for kind in KINDS), *((kind, CHAT) for kind in KINDS[:3])],  # WordPiece has no tokens of chats
)
def test_a_cache_is_found_whatever_the_kind_of_its_vocabulary(make, options, tmp_path, capsys):
    make(tmp_path / "encoder")
    (tmp_path / "a.txt").write_text(WORDS)
    (tmp_path / "c.jsonl").write_text(json.dumps(FORMS["openai"]) + "\n")
    path, cache = str(tmp_path / ("a.txt" if options is OPTIONS else "c.jsonl")), tmp_path / "cache"
    arguments = {"n_vocab": 400, "encoder_path": str(tmp_path / "encoder"), "cache": cache, "options": options}
    first = prepare_text(path, **arguments)
    before = made(cache)
    capsys.readouterr()
    assert prepare_text(path, **arguments) == first
    assert capsys.readouterr().out == ""
    if options is CHAT:
        kept = text_cache.chat_vocabulary(arguments["encoder_path"], n_vocab=400, cache=cache)
        assert load(kept).digest == open_shard(first.shards[0]).tokenizer
    assert made(cache) == before


@pytest.mark.parametrize("first", [byte_level, sentencepiece])
@pytest.mark.parametrize("second", [pair, sentencepiece])
def test_a_vocabulary_of_another_kind_takes_the_place_of_the_one_in_the_cache(first, second, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps(FORMS["openai"]) + "\n")
    for make in (first, second):
        shutil.rmtree(tmp_path / "encoder", ignore_errors=True)
        make(tmp_path / "encoder")
        prepared = prepare_text(
            str(tmp_path / "c.jsonl"), n_vocab=400, encoder_path=str(tmp_path / "encoder"), cache=tmp_path / "cache",
            options=CHAT,
        )  # fmt: skip
        assert load(prepared.encoder).digest == open_shard(prepared.shards[0]).tokenizer


# Runs that share a text.


def learned_apart(tmp_path: Path) -> tuple[str, Path, Prepared]:
    """Returns a text, the vocabulary of a run that began before it changed, and what a new run made of it since."""
    path = tmp_path / "a.txt"
    path.write_text(WORDS)
    arguments = {"n_vocab": 280, "encoder_path": None, "cache": tmp_path / "cache" / "text-1"}
    load(prepare_text(str(path), **arguments).encoder).save(tmp_path / "own")
    path.write_text(WORDS + "zebras vex my big sphinx of quartz\n" * 300)
    return str(path), tmp_path / "own", prepare_text(str(path), **arguments)


def test_a_run_that_waited_while_a_new_run_learned_its_vocabulary_leaves_it_alone(tmp_path):
    path, own, new = learned_apart(tmp_path)
    before = made(new.folder)
    kept = prepare_text(path, n_vocab=280, encoder_path=None, cache=new.folder, own=own)
    assert kept.folder != new.folder
    assert made(new.folder) == before
    digests = [load(each.encoder).digest for each in (kept, new)]
    assert digests == [open_shard(each.shards[0]).tokenizer for each in (kept, new)]
    assert digests[0] == load(own).digest != digests[1]


def test_text_that_is_held_out_has_the_vocabulary_of_the_run_too(tmp_path):
    path, own, new = learned_apart(tmp_path)
    (tmp_path / "b.txt").write_text(WORDS)
    kept = text_cache.prepare_split(
        [path, str(tmp_path / "b.txt")], [str(tmp_path / "b.txt")], n_vocab=280, encoder_path=None, cache=new.folder,
        own=own,
    )  # fmt: skip
    digests = {open_shard(shard).tokenizer for shard in (*kept.shards, *kept.held_out)}
    assert digests == {load(own).digest}
    assert {kept.folder / "evaluation" / "shards"} == {shard.parent for shard in kept.held_out}


@pytest.mark.parametrize("is_new", [True, False])
def test_shards_next_to_another_vocabulary_are_made_again(is_new, tmp_path, capsys):
    path, own, new = learned_apart(tmp_path)
    shutil.copytree(own, new.encoder, dirs_exist_ok=True)  # as an older version did
    healed = prepare_text(path, n_vocab=280, encoder_path=None, cache=new.folder, own=None if is_new else own)
    assert healed.folder == new.folder
    digest = load(healed.encoder).digest
    assert digest == open_shard(healed.shards[0]).tokenizer
    assert (digest == load(own).digest) != is_new
    assert is_new or "made with another vocabulary" in capsys.readouterr().out


def opened(tmp_path: Path, **keys) -> Data:
    own = keys.pop("vocabulary", None)
    config = InputConfig(input="text", data_path=str(tmp_path / "texts"), **keys)
    return open_data(config, n_ctx=16, n_vocab=300, cache=tmp_path / "cache", vocabulary=own)


def test_runs_keep_apart_whose_vocabulary_was_replaced_in_encoder_path(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(WORDS)
    named = str(tmp_path / "encoder")
    byte_level(Path(named))
    first = opened(tmp_path, encoder_path=named)
    byte_level(tmp_path / "own")
    with_special_tokens(byte_level_tokenizer(), ["<|new|>"]).save(named)
    digests = [load(tmp_path / "own").digest, load(named).digest]
    assert first.tokenizer == digests[0]
    for turn in range(3):
        found = [opened(tmp_path, encoder_path=named, vocabulary=own) for own in (tmp_path / "own", None)]
        assert [each.tokenizer for each in found] == digests
        out = capsys.readouterr().out
        assert (out == "") == (turn > 0), out


@pytest.mark.parametrize("order", [("fail", "skip"), ("skip", "fail")])
def test_runs_that_skip_faults_and_runs_that_fail_share_a_text_without_faults(order, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(WORDS)
    first = opened(tmp_path, on_error=order[0])
    (folder,) = tmp_path.glob("cache/text-*")
    before = made(folder)
    capsys.readouterr()
    for on_error in (*order, *order):
        assert opened(tmp_path, on_error=on_error).content_digest() == first.content_digest()
    assert capsys.readouterr().out == ""
    assert made(folder) == before


def test_what_was_left_out_and_is_no_fault_serves_a_run_that_fails_at_faults(tmp_path, capsys):
    lines = [FORMS["openai"], {"messages": []}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    byte_level(tmp_path / "encoder")
    arguments = {"n_vocab": 300, "encoder_path": str(tmp_path / "encoder"), "cache": tmp_path / "cache"}
    first = prepare_text(str(tmp_path / "c.jsonl"), **arguments, options=CHAT._replace(skip_faults=True))
    before = made(tmp_path / "cache" / "shards")
    for turn in range(2):  # it is read once
        capsys.readouterr()
        assert prepare_text(str(tmp_path / "c.jsonl"), **arguments, options=CHAT) == first
        assert (capsys.readouterr().out == "") == (turn > 0)
    assert made(tmp_path / "cache" / "shards") == before


def test_a_run_that_fails_at_a_fault_leaves_the_shards_of_one_that_skips_it(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(WORDS)
    (tmp_path / "texts" / "b.txt").write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(UserError, match=r"b.txt: not UTF-8 text"):
        opened(tmp_path)
    first = opened(tmp_path, on_error="skip")
    (folder,) = tmp_path.glob("cache/text-*")
    before = made(folder)
    for _ in range(2):
        with pytest.raises(UserError, match=r"b.txt: not UTF-8 text"):
            opened(tmp_path)
        capsys.readouterr()
        assert opened(tmp_path, on_error="skip").tokenizer == first.tokenizer
        assert capsys.readouterr().out == ""
    assert made(folder) == before


@pytest.mark.parametrize("has_own", [True, False])
def test_a_cache_in_a_read_only_place_that_will_not_do_is_left_as_it_is(has_own, tmp_path, monkeypatch, capsys):
    path, own, new = learned_apart(tmp_path)
    Path(path).write_text(WORDS + "sphinx\n")
    before = made(new.folder)
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "mine"))
    exclusive = locks.exclusive

    def refused(lock: Path, *arguments, **options):
        if lock.is_relative_to(tmp_path / "cache"):
            raise PermissionError(errno.EACCES, "Permission denied", str(lock))
        return exclusive(lock, *arguments, **options)

    monkeypatch.setattr(locks, "exclusive", refused)
    new.encoder.joinpath("tokenizer.json").replace(tmp_path / "moved.json")
    if has_own:
        (tmp_path / "moved.json").replace(new.encoder / "tokenizer.json")
        own = new.encoder
    for turn in range(2):
        capsys.readouterr()
        found = prepare_text(path, n_vocab=280, encoder_path=None, cache=new.folder, own=own if has_own else None)
        assert found.folder.parent == tmp_path / "mine"
        assert load(found.encoder).decode(open_shard(found.shards[0]).tokens(0)) == WORDS + "sphinx\n"
        assert ("encoded " in capsys.readouterr().out) == (turn == 0)
    assert {file for file in before if has_own or file.name != "tokenizer.json"} == set(made(new.folder))


def test_text_that_is_missing_is_named_with_its_key_when_a_cache_exists_too(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(WORDS)
    config = InputConfig(input="text", data_path=[str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    arguments = {"n_ctx": 16, "n_vocab": 300, "cache": tmp_path / "cache"}
    open_data(config, **arguments)
    assert text_input.is_prepared(config, n_vocab=300, cache=tmp_path / "cache", vocabulary=None)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(UserError, match=r"^data_path: .*b\.txt"):
        open_data(config, **arguments)
    assert not text_input.is_prepared(config, n_vocab=300, cache=tmp_path / "cache", vocabulary=None)
