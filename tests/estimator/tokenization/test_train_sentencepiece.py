"""Training SentencePiece vocabularies: reproducible, with working options and helpful errors."""

import pytest

from estimator.errors import UserError
from estimator.tokenization.train_sentencepiece import sentences, train_sentencepiece

pytest.importorskip("sentencepiece", reason="SentencePiece is an optional package")
TEXTS = ["the quick brown fox jumps over the lazy dog\n" * 20, "the dog thinks;  the fox doesn't. 123 123\n" * 20]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_the_same_text_gives_the_same_file(model_type, tmp_path):
    for name in ("a", "b"):
        train_sentencepiece(iter(TEXTS), n_vocab=330, out=tmp_path / name, model_type=model_type)
    first, second = ((tmp_path / name / "tokenizer.model").read_bytes() for name in ("a", "b"))
    assert first == second
    assert not list(tmp_path.glob("*/*.tmp"))


def test_sentences_are_lines_and_nothing_of_a_long_one_is_lost():
    assert list(sentences(["a b\n\n  c\td\u2581e\x00f\r\n", ""])) == ["a b", "  c", "d", "e", "f"]
    for long in ("word " * 10_000, "\u65e5" * 20_000, "x" * 9000 + " y" * 9000):
        parts = list(sentences([long]))
        assert "".join(parts) == long
        assert max(len(part.encode()) for part in parts) < 1 << 16
    assert all(part[0] == " " for part in sentences([" word" * 10_000]))
    assert list(sentences(["three short words"])) == ["three short words"]


def test_symbols_of_the_user_are_always_one_token_and_special_tokens_never(tmp_path):
    tokenizer = train_sentencepiece(
        TEXTS, n_vocab=330, out=tmp_path, user_symbols=["<br>"], special_tokens=["<|user|>", "<|endoftext|>"]
    )
    assert tokenizer.special_tokens == {"<unk>": 0, "<|endoftext|>": 1, "<|user|>": 2}
    assert tokenizer.encode("a<br>b")[1] == 3
    assert tokenizer.token_bytes()[3] == 4
    assert 2 not in tokenizer.encode("<|user|>")
    assert tokenizer.n_vocab <= 330


def test_less_coverage_leaves_rare_characters_to_bytes(tmp_path):
    texts = [*TEXTS, "\u65e5"]
    every = train_sentencepiece(texts, n_vocab=330, out=tmp_path / "all", character_coverage=1.0)
    fewer = train_sentencepiece(texts, n_vocab=330, out=tmp_path / "some", character_coverage=0.99)
    assert len(every.encode("\u65e5")) == 1
    assert len(fewer.encode("\u65e5")) == 3
    assert fewer.decode(fewer.encode("\u65e5")) == "\u65e5"


def test_short_text_gives_fewer_entries(tmp_path):
    assert train_sentencepiece(TEXTS, n_vocab=5000, out=tmp_path).n_vocab < 500


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text"),
        ([" \n\t"], {}, "no text"),
        (["\u2585\u2581"], {}, "no text"),
        (TEXTS, {"n_vocab": 260}, r"260 is too small.*make 2\d\d; give --vocab_size more"),
        (TEXTS, {"character_coverage": 0.0}, "coverage of 0.0"),
        (TEXTS, {"user_symbols": ["a b"]}, "has a blank"),
        (TEXTS, {"user_symbols": [""]}, "empty"),
        (TEXTS, {"special_tokens": ["<unk>"]}, "SentencePiece uses the name"),
        (TEXTS, {"special_tokens": ["<0x41>"]}, "SentencePiece uses the name"),
        (TEXTS, {"special_tokens": ["<x>"], "user_symbols": ["<x>"]}, "both; choose one"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(texts, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_sentencepiece(texts, out=tmp_path / "out", **({"n_vocab": 330} | options))
    assert not (tmp_path / "out").exists()


def test_of_text_beyond_the_memory_a_sample_is_learnt_from_and_told(tmp_path):
    notes: list[str] = []
    texts = [f"word{number} " * 100 for number in range(500)]
    train_sentencepiece(texts, n_vocab=330, out=tmp_path, max_memory=2_000_000, note=notes.append)
    assert notes == ["learning from a sample of 83.2 kB, evenly taken from 389 kB of text"]
