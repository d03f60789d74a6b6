"""Command-line tests of datasets/train_tokenizer.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from estimator.tokenization.tokenizer import load

TEXT = "the quick brown fox jumps over the lazy dog\n" * 30


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def run(*arguments: object, code: int = 0, cwd: Path | None = None) -> str:
    command = [sys.executable, str(ROOT / "datasets" / "train_tokenizer.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_byte_level_with_special_tokens(text, tmp_path):
    out = run(text, "--out", tmp_path / "e", "--vocab_size", 280, "--special_tokens", "<|user|>", "<|bot|>")
    assert "280 entries; special tokens <|endoftext|> 277, <|user|> 278, <|bot|> 279" in out
    assert load(tmp_path / "e").special_tokens["<|bot|>"] == 279
    assert "e/tokenizer.json exists; use --overwrite" in run(text, "--out", tmp_path / "e", "--vocab_size", 280, code=2)
    again = run(text, "--out", tmp_path / "e", "--vocab_size", 280, "--overwrite", "--sample_bytes", "1K")
    assert "e/tokenizer.json: 280 entries" in again


def test_what_was_sampled_is_said(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text(f"{number} {TEXT}")
    out = run(tmp_path, "--out", tmp_path / "e", "--vocab_size", 280, "--max_memory", "0.2M")
    assert "learning from a sample of 23.8 kB, evenly taken from 66.1 kB of text" in out


def test_text_that_is_unreadable_ends_it_or_is_skipped_and_counted(text, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    (tmp_path / "some.jsonl").write_text('{"text": "the lazy dog"}\n{"other": 1}\n')
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.4")
    arguments = (tmp_path, "--out", tmp_path / "e", "--vocab_size", 280)
    assert "latin.txt: not UTF-8 text at byte 3" in run(*arguments, "--on_error", "stop", code=2)
    out = run(*arguments, "--on_error", "skip")
    assert "left out or noted: 1 " in out
    for reason in ("not text", "no text in the record", ".pdf"):
        assert reason in out
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin.txt").rename(tmp_path / "latin" / "latin.txt")
    arguments = (tmp_path / "latin", "--out", tmp_path / "f", "--vocab_size", 280, "--on_error", "skip")
    assert "no text in" in (error := run(*arguments, code=2))
    assert "left out: 1 " in error


def test_sentencepiece(text, tmp_path):
    pytest.importorskip("sentencepiece", reason="SentencePiece is an optional package")
    sp = ("--kind", "sentencepiece", "--vocab_size", 320)
    out = run(text, "--out", tmp_path / "s", *sp, "--model_type", "unigram", "--user_symbols", "<br>")
    assert "special tokens <unk> 0, <|endoftext|> 1" in out
    tokenizer = load(tmp_path / "s")
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    error = run(text, "--out", tmp_path / "s", "--vocab_size", 280, code=2)
    assert "holds a vocabulary of another kind (tokenizer.model)" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", 280, "--no-byte_fallback"], "--byte_fallback: byte-level BPE has no such choice"),
        (["--vocab_size", 280, "--max_memory", "lots"], "invalid size value"),
        (["--vocab_size", 280, "--sample_bytes", "inf"], "invalid size value"),
        (["--vocab_size", 10**12, "--kind", "sentencepiece"], "give a number from 1 to 16,777,216"),
        (["--vocab_size", 280, "--out", "text.txt/e"], "nothing can be written into"),
        (["--vocab_size", 200], "200 is too small"),
        (["--vocab_size", 280, "--special_tokens", "a"], "'a' cannot be a special token"),
    ],
)
def test_refusals(arguments, message, text, tmp_path):
    assert message in run(text, "--out", tmp_path / "e", *arguments, code=2, cwd=tmp_path)
    assert not (tmp_path / "e").exists()
