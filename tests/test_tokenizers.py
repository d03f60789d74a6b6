"""Vocabularies: exact ids, exact bytes, one digest however stored, special tokens as plain text, clear refusals."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UserError
from text import vocabulary
from text.tokenizers import ByteLevelBPE, Tokenizer, byte_level_tokenizer, load, with_special_tokens
from text.training import train_byte_bpe

END = "<|endoftext|>"
AWKWARD = [
    "",
    " ",
    "plain words, and  two spaces",
    f"a{END}b {END}",
    "tabs\t\r\n\n\nends ",
    "na\u00efve \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f467 e\u0301",
    "\x00\x07\x7f\ufeff\uffff\U0010ffff",
]
TEXTS = ["the quick brown fox jumps over the lazy dog\n" * 20, "the dog thinks; the fox doesn't. 123 123\n" * 20]


@pytest.fixture(scope="session")
def gpt2(gpt2_encoder: Path) -> Tokenizer:
    return load(gpt2_encoder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Tokenizer:
    return train_byte_bpe(TEXTS, n_vocab=300, out=tmp_path_factory.mktemp("trained"))


def random_texts(count: int) -> list[str]:
    """Text of characters from all of Unicode, words and blanks among them."""
    random_numbers = random.Random(0)
    alphabets = [range(0x80), range(0x20, 0x300), range(0x3000, 0xD800), range(0xE000, 0x110000)]

    def character() -> str:
        return chr(random_numbers.choice(random_numbers.choice(alphabets)))

    return ["".join(character() for _ in range(random_numbers.randrange(60))) for _ in range(count)]


def reference_batch(tokenizer: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The batch as encoded where gigatoken is not installed."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert isinstance(tokenizer, ByteLevelBPE)
    return ByteLevelBPE(tokenizer._contents, source="a copy").encode_batch(texts)


def test_gpt2_ids_are_those_of_the_original_encoder(gpt2, fixtures, monkeypatch, capsys):
    cases = json.loads((fixtures / "encodings.json").read_text(encoding="utf-8"))
    texts = [case["text"] for case in cases]
    expected = [case["ids"] for case in cases]
    assert len(cases) == 30
    assert [gpt2.encode(text) for text in texts] == expected
    assert [ids.tolist() for ids in gpt2.encode_batch(texts)] == expected
    assert capsys.readouterr().err == "", "gigatoken was not used"
    assert [ids.tolist() for ids in reference_batch(gpt2, texts, monkeypatch)] == expected
    assert "gigatoken is not installed" in capsys.readouterr().err
    assert [gpt2.decode(ids) for ids in expected] == texts


def test_gpt2_vocabulary_has_50257_entries_and_ends_documents_with_the_last(gpt2):
    assert (gpt2.n_vocab, gpt2.end_of_text) == (50257, 50256)
    assert gpt2.token_bytes()[50256] == 0
    assert gpt2.token_bytes().dtype == np.int32


def test_batches_are_int32_arrays_equal_to_single_encodings(gpt2, trained):
    for tokenizer in (gpt2, trained, byte_level_tokenizer()):
        texts = [*AWKWARD, *random_texts(200)]
        batch = tokenizer.encode_batch(texts)
        assert all(ids.dtype == np.int32 for ids in batch)
        assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
        assert tokenizer.encode_batch([]) == []
        of_utf8 = tokenizer.encode_utf8([text.encode() for text in texts])
        assert [ids.tolist() for ids in of_utf8] == [ids.tolist() for ids in batch]


def test_every_text_comes_back_from_its_ids(gpt2, trained):
    for tokenizer in (gpt2, trained, byte_level_tokenizer()):
        lengths = tokenizer.token_bytes()
        for text in [*AWKWARD, *random_texts(300)]:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.decode_bytes(np.array(ids, np.int64)) == text.encode()
            assert lengths[ids].sum() == len(text.encode())


def test_special_tokens_in_text_are_plain_text_unless_asked_for(gpt2, trained):
    for tokenizer in (gpt2, trained, byte_level_tokenizer()):
        text = f"a{END}b"
        assert tokenizer.end_of_text not in tokenizer.encode(text)
        assert tokenizer.end_of_text not in tokenizer.encode_batch([text])[0]
        (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
        assert tokenizer.encode(text, special=True) == [a, tokenizer.end_of_text, b]
        assert tokenizer.decode([a, tokenizer.end_of_text, b]) == text


def test_broken_utf8_is_replaced_in_text_and_kept_in_bytes(gpt2):
    half = gpt2.encode("\u65e5")[:1]
    assert gpt2.decode(half) == "\ufffd"
    assert "\u65e5".encode().startswith(gpt2.decode_bytes(half))
    assert gpt2.encode("a\ud800b") == gpt2.encode("a\ufffdb")
    assert gpt2.encode_batch(["a\ud800b"])[0].tolist() == gpt2.encode("a\ufffdb")


def test_digest_is_equal_for_equal_vocabularies_however_stored(gpt2, gpt2_encoder, tmp_path):
    gpt2.save(tmp_path / "json")
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "vocab.json").write_bytes((gpt2_encoder / "encoder.json").read_bytes())
    merges = (gpt2_encoder / "vocab.bpe").read_text(encoding="utf-8").replace("#version: 0.2\n", "")
    (tmp_path / "pair" / "merges.txt").write_text(merges, encoding="utf-8", newline="\r\n")
    older = json.loads((tmp_path / "json" / "tokenizer.json").read_text(encoding="utf-8"))
    older["model"]["merges"] = [" ".join(pair) for pair in older["model"]["merges"]]
    del older["model"]["vocab"][END]  # some writers list special tokens among the added ones only
    (tmp_path / "older.json").write_text(json.dumps(older), encoding="utf-8")
    for path in ("json", "json/tokenizer.json", "pair", "pair/merges.txt", "older.json"):
        assert load(tmp_path / path).digest == gpt2.digest, path


def test_digest_differs_with_any_token_or_merge():
    def digest(*merges: tuple[str, str]) -> str:
        vocab = vocabulary.BYTE_VOCAB | {"ab": 256, "bc": 257}
        contents = vocabulary.definition(vocab=vocab, merges=merges)
        return ByteLevelBPE(vocabulary.checked(contents, source="x"), source="x").digest

    ab, bc = ("a", "b"), ("b", "c")
    assert len({digest(), digest(ab), digest(ab, bc), digest(bc, ab), byte_level_tokenizer().digest}) == 5
    assert digest(ab, bc) == digest(ab, bc)


def test_trained_vocabulary_is_bytes_then_merges_then_end_of_text(trained):
    assert trained.n_vocab == 300
    assert trained.end_of_text == 299
    assert [trained.decode_bytes([i]) for i in range(256)] == [
        byte_level_tokenizer().decode_bytes([i]) for i in range(256)
    ]
    assert trained.encode("the dog")[0] > 255
    assert trained.token_bytes()[256:299].min() >= 2


def test_training_twice_gives_the_same_vocabulary(trained, tmp_path):
    again = train_byte_bpe(iter(TEXTS), n_vocab=300, out=tmp_path)
    assert again.digest == trained.digest
    assert load(tmp_path).digest == trained.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_other_libraries_read_the_trained_file_with_the_same_ids(tmp_path):
    trained = train_byte_bpe(TEXTS, n_vocab=300, out=tmp_path)
    import tokenizers

    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [text for text in [*AWKWARD, *TEXTS, *random_texts(50)] if END not in text]
    assert [other.encode(text).ids for text in texts] == [trained.encode(text) for text in texts]
    assert other.token_to_id(END) == trained.end_of_text
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert [other(text)["input_ids"] for text in texts] == [trained.encode(text) for text in texts]
    assert other.eos_token_id == trained.end_of_text


def test_257_entries_are_the_bytes_without_merges(tmp_path):
    tokenizer = train_byte_bpe([], n_vocab=257, out=tmp_path)
    assert tokenizer.digest == byte_level_tokenizer().digest
    assert tokenizer.end_of_text == 256
    assert len(tokenizer.encode("the dog")) == 7


def test_special_tokens_are_trained_after_end_of_text_within_the_size(trained, tmp_path):
    tokenizer = train_byte_bpe(TEXTS, n_vocab=300, out=tmp_path, special_tokens=["<|user|>", END, "<|bot|>"])
    assert tokenizer.special_tokens == {END: 297, "<|user|>": 298, "<|bot|>": 299}
    assert [tokenizer.decode_bytes([i]) for i in range(297)] == [trained.decode_bytes([i]) for i in range(297)]
    assert load(tmp_path).digest == tokenizer.digest
    with pytest.raises(UserError, match=r"<\|user\|> make 258"):
        train_byte_bpe(TEXTS, n_vocab=257, out=tmp_path / "small", special_tokens=["<|user|>"])


def test_of_text_beyond_the_memory_a_sample_is_learnt_from_and_told(tmp_path):
    notes: list[str] = []
    texts = [f"word{number} " * 100 for number in range(1000)]
    train_byte_bpe(iter(texts), n_vocab=300, out=tmp_path, max_memory=1_000_000, note=notes.append)
    train_byte_bpe(iter(texts), n_vocab=300, out=tmp_path, sample_bytes=500_000, note=notes.append)
    train_byte_bpe(iter(texts), n_vocab=300, out=tmp_path, note=notes.append)
    assert [note.partition(",")[0] for note in notes] == [f"learning from a sample of {x} MB" for x in ("0.1", "0.5")]


@pytest.mark.parametrize(
    ("texts", "n_vocab", "message"), [(TEXTS, 256, "257"), ([], 300, "no text"), ([" \n"], 300, "no text")]
)
def test_training_refuses_what_cannot_be(texts, n_vocab, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_byte_bpe(texts, n_vocab=n_vocab, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                }
            },
            "words",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "cannot read this vocabulary"),
        ({"normalizer": {"type": "NFC"}}, ""),
    ],
)
def test_batches_are_exact_where_gigatoken_differs(change, reason, capsys):
    vocab = {**vocabulary.BYTE_VOCAB, "e\u0120": 256, "e\u0120t": 257}
    contents = vocabulary.definition(vocab=vocab, merges=[("e", "\u0120"), ("e\u0120", "t")]) | change
    tokenizer = ByteLevelBPE(vocabulary.checked(contents, source="odd.json"), source="odd.json")
    texts = ["The the e\u0301", *AWKWARD, *random_texts(100)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]
    assert reason in capsys.readouterr().err


def test_batches_are_exact_when_gigatoken_is_wrong(gpt2, monkeypatch, capsys):
    import gigatoken

    wrong = byte_level_tokenizer()._contents
    backend = gigatoken.Tokenizer.from_json(json.dumps(wrong))
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda contents: backend)
    tokenizer = ByteLevelBPE(gpt2._contents, source="odd.json")
    assert tokenizer.encode_batch(["the dog"])[0].tolist() == gpt2.encode("the dog")
    assert "odd.json: gigatoken gives other ids" in capsys.readouterr().err


def test_added_tokens_that_are_not_special_are_still_found_and_truncation_is_not_obeyed():
    contents = vocabulary.definition(vocab=vocabulary.BYTE_VOCAB, merges=[])
    spaces = contents["added_tokens"][0] | {"id": 257, "content": "    ", "special": False}
    contents["added_tokens"].append(spaces)
    contents["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = ByteLevelBPE(vocabulary.checked(contents, source="x"), source="x")
    text = f"a    b{END}"
    expected = [64, 257, 65, *byte_level_tokenizer().encode(END)]
    assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0].tolist() == expected
    assert tokenizer.encode(text, special=True) == [64, 257, 65, 256]
    assert tokenizer.token_bytes()[257] == 4


def test_special_tokens_are_added_after_the_last_and_kept_in_the_file(gpt2, trained, tmp_path):
    for number, tokenizer in enumerate([gpt2, trained, byte_level_tokenizer()]):
        old = tokenizer.n_vocab
        assert tokenizer.special_tokens == {END: tokenizer.end_of_text}
        assert with_special_tokens(tokenizer, [END]) is tokenizer
        more = with_special_tokens(tokenizer, ["<|user|>", END, "<|bot|>", "<|user|>"])
        assert more.special_tokens == {END: tokenizer.end_of_text, "<|user|>": old, "<|bot|>": old + 1}
        assert (more.n_vocab, more.end_of_text) == (old + 2, tokenizer.end_of_text)
        assert more.digest != tokenizer.digest
        more.save(tmp_path / str(number))
        loaded = load(tmp_path / str(number))
        assert (loaded.digest, loaded.special_tokens) == (more.digest, more.special_tokens)
        for text in [*AWKWARD, "<|user|>hi<|bot|>"]:
            assert loaded.encode(text) == loaded.encode_batch([text])[0].tolist() == tokenizer.encode(text)
        assert loaded.encode("<|user|>a<|bot|>", special=True) == [old, *tokenizer.encode("a"), old + 1]
        assert loaded.decode([old, old + 1]) == "<|user|><|bot|>"
        assert loaded.token_bytes()[old:].tolist() == [0, 0]
        assert load(tmp_path / str(number)).encode_batch([""])[0].size == 0


def test_other_libraries_know_the_added_tokens(trained, tmp_path):
    import tokenizers

    with_special_tokens(trained, ["<|user|>"]).save(tmp_path)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("<|user|>a").ids == [300, *trained.encode("a")]


@pytest.mark.parametrize("name", ["", "a", "!"])
def test_ordinary_tokens_cannot_become_special(trained, name):
    with pytest.raises(UserError, match="cannot be a special token"):
        with_special_tokens(trained, [name])


def broken(tmp_path: Path, **files: str | bytes) -> Path:
    for name, contents in files.items():
        path = tmp_path / name.replace("__", ".")
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return tmp_path


GOOD = vocabulary.definition(vocab=vocabulary.BYTE_VOCAB, merges=[])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no vocabulary.*download_model.py 124M.*train_tokenizer.py"),
        ({"notes__txt": "hello"}, "holds no vocabulary"),
        ({"encoder__json": "{}"}, "has encoder.json but not vocab.bpe"),
        ({"merges__txt": ""}, "has merges.txt but not vocab.json"),
        ({"tokenizer__json": "{"}, "tokenizer.json, line 1: not valid JSON.*complete"),
        ({"tokenizer__json": b"\x80\x02"}, "tokenizer.json: not UTF-8 text at byte 0"),
        ({"tokenizer__json": "[]"}, "tokenizer.json: not a JSON object"),
        ({"tokenizer__json": "{}"}, "tokenizer.json: no model"),
        ({"tokenizer__json": json.dumps({"model": {"type": "Unigram", "vocab": []}})}, "another kind .Unigram."),
        ({"tokenizer__json": json.dumps(GOOD | {"pre_tokenizer": None, "decoder": None})}, "another kind"),
        ({"tokenizer__json": json.dumps(GOOD | {"pre_tokenizer": {"type": "ByteLevel"}})}, "tokenizer.json: missing"),
        ({"tokenizer__json": json.dumps(GOOD | {"added_tokens": [{"id": 1}]})}, "added_tokens lacks"),
        (
            {"tokenizer__json": json.dumps(GOOD | {"model": GOOD["model"] | {"merges": [["t", "he"]]}})},
            "merge 0 .* does not join",
        ),
        (
            {"tokenizer__json": json.dumps(GOOD | {"model": GOOD["model"] | {"vocab": {"a": 0, "\u4e00": 1}}})},
            "token 1 .* byte alphabet",
        ),
        ({"encoder__json": '{"a": 0, "b": 0}', "vocab__bpe": ""}, "encoder.json: two tokens have the same id"),
        ({"encoder__json": '{"a": "0"}', "vocab__bpe": ""}, "encoder.json: no vocabulary"),
        ({"encoder__json": '{"a": 0}', "vocab__bpe": ""}, "encoder.json: no token for the byte 0x00"),
        ({"encoder__json": '{"a": 0}', "vocab__bpe": "#version: 0.2\na b\n"}, "vocab.bpe, line 2"),
    ],
)
def test_bad_vocabularies_are_refused_by_name(files, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(broken(tmp_path, **files))


def test_missing_vocabulary_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match=r"no such vocabulary folder.*download_model\.py 124M"):
        load(tmp_path / "encoder")


def test_ids_outside_the_vocabulary_have_no_bytes_and_show_as_unknown(trained):
    for ids in ([300], [-1]):
        with pytest.raises(UserError, match=str(ids[0])):
            trained.decode_bytes(ids)
        assert trained.decode([*trained.encode("a"), *ids, *trained.encode("b")]) == "a\ufffdb"
    assert trained.decode(np.array([10**6], np.int32)) == "\ufffd"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tokenizer.json", "a.model"], r"several vocabularies \(tokenizer.json, a.model\); name the file"),
        (["a.model", "b.model"], r"several vocabularies \(a.model, b.model\)"),
        (["vocab.txt", "a.model"], "several vocabularies"),
        (["vocab.json", "merges.txt", "vocab.txt"], "several vocabularies"),
    ],
)
def test_a_folder_of_several_kinds_is_refused_but_a_file_of_it_can_be_named(names, message, trained, tmp_path):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    trained.save(tmp_path)
    assert load(tmp_path / "tokenizer.json").digest == trained.digest
