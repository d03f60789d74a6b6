"""WordPiece vocabularies: ids of affjljoo3581/GPT2, longest matches, and warnings about lossy input."""

import string
import unicodedata

import numpy as np
import pytest
from helpers.texts import random_texts

from estimator.errors import UserError
from estimator.tokenization.tokenizer import load
from estimator.tokenization.wordpiece import WordPiece

WORDS = [
    "<unk>", "the", "quick", "un", "##want", "##ed", "run", "##ning", "##n", ".", ",", "?", "!", "'", "\u65e5",
    "##\u672c", "na\u00efve", *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> WordPiece:
    folder = tmp_path_factory.mktemp("wordpiece")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    loaded = load(folder)
    assert isinstance(loaded, WordPiece)
    return loaded


def ids(*words: str) -> list[int]:
    """Three special tokens precede the words of the file."""
    return [["<s>", "</s>", "<pad>", *WORDS].index(word) for word in words]


def test_special_tokens_come_first_and_the_words_of_the_file_follow(tokenizer):
    assert tokenizer.special_tokens == {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    assert tokenizer.end_of_text == 1
    assert tokenizer.n_vocab == len(WORDS) + 3
    assert tokenizer.encode("the") == [4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The QUICK unwanted\n\trunning.", ["the", "quick", "un", "##want", "##ed", "run", "##ning", "."]),
        ("the,the!", ["the", ",", "the", "!"]),
        ("a\u65e5\u672c", ["a", "\u65e5", "<unk>"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["<unk>"]),
        ("th\u200be \x00the", ["the", "the"]),
        ("na\u00efve", ["na\u00efve"]),
        ("the \u0436\u0436 the", ["the", "<unk>", "the"]),
        ("<s>", ["<unk>", "s", "<unk>"]),
        ("", []),
    ],
)
def test_words_become_their_longest_beginnings(tokenizer, text, words):
    assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0].tolist() == ids(*words)
    assert tokenizer.encode_utf8([text.encode()])[0].tolist() == ids(*words)
    assert tokenizer.encode_batch([text])[0].dtype == np.int32


def test_longest_matches_are_those_of_bert(tokenizer):
    transformers = pytest.importorskip("transformers", reason="the independent implementation")
    vocab = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *WORDS])}
    bert = transformers.BertTokenizer(
        vocab=vocab, unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", mask_token="<pad>",
        do_lower_case=True, strip_accents=False,
    )  # fmt: skip
    letters = ["unwantedrunning quickly, the runner's na\u00efve; \u65e5\u672c x" * 3, "The  end. " * 5]
    for text in [*letters, *random_texts(300)]:
        # Leave out special tokens, planes that BERT treats as Chinese, control characters that only Python treats as
        # white space, and characters whose handling depends on the Unicode version.
        kept = [
            c
            for c in text
            if c not in "<>\U00011c71" and ord(c) < 0x2B820 and unicodedata.category(c) not in ("Cc", "Cn")
        ]
        text = "".join(kept)
        assert tokenizer.encode(text) == bert.encode(text, add_special_tokens=False), text


def test_special_tokens_are_read_when_asked_for(tokenizer):
    assert tokenizer.encode("<s>the</s>", special=True) == ids("<s>", "the", "</s>")
    assert not {0, 1, 2} & set(tokenizer.encode("<s>the</s>"))


def test_tokenised_lines_are_looked_up_word_by_word(tokenizer):
    line = "<s> un ##want ##ed The nothing </s>\n"
    assert tokenizer.encode_pretokenized(line) == ids("<s>", "un", "##want", "##ed", "<unk>", "<unk>", "</s>")
    assert tokenizer.encode_pretokenized("") == []


def test_decoding_puts_blanks_between_words(tokenizer):
    text = "The quick, unwanted \u65e5 runs!  the"
    assert tokenizer.decode(tokenizer.encode(text)) == " the quick, unwanted \u65e5 runs! the"
    decoded = tokenizer.decode_bytes(tokenizer.encode(text))
    assert len(decoded) == tokenizer.token_bytes()[tokenizer.encode(text)].sum()
    assert tokenizer.decode([0, 1, 2, 3]) == "<s></s><pad><unk>"
    assert tokenizer.token_bytes()[:4].tolist() == [0, 0, 0, 0]


def test_loss_is_said_once_when_loading(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("<unk>\na\n")
    load(tmp_path)
    load(tmp_path)
    assert capsys.readouterr().err.count("vocab.txt: this vocabulary does not keep text exactly") == 1


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert load(tmp_path).digest == load(tmp_path / "vocab.txt").digest == tokenizer.digest
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]
    (tmp_path / "vocab.txt").write_text("\r\n".join([*WORDS[:-1], "other"]), encoding="utf-8")
    assert load(tmp_path).digest != tokenizer.digest


def test_of_equal_words_the_last_counts(tmp_path):
    (tmp_path / "vocab.txt").write_text("<unk>\na\nb\na\n</s>\n")
    tokenizer = load(tmp_path)
    assert tokenizer.encode("a") == [6]
    assert (tokenizer.end_of_text, tokenizer.n_vocab) == (7, 8)
    assert tokenizer.decode([4, 6]) == " a a"


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "no <unk>"), (b"[UNK]\nthe\n", "no <unk> among its 2 words"), (b"\xff\xfe", "not UTF-8")],
)
def test_other_lists_are_refused(contents, message, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(contents)
    with pytest.raises(UserError, match=f"vocab.txt: {message}"):
        load(tmp_path)
