"""Tokenizers: exact ids and bytes, a digest that ignores the file format, special tokens in text, and clear errors."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers.texts import AWKWARD, END, random_texts

from estimator.errors import UserError
from estimator.tokenization import vocab_files
from estimator.tokenization.tokenizer import ByteLevelBPE, Tokenizer, byte_level_tokenizer, load, with_special_tokens
from estimator.tokenization.train_bpe import train_byte_bpe

TEXTS = ["the quick brown fox jumps over the lazy dog\n" * 20, "the dog thinks; the fox doesn't. 123 123\n" * 20]


@pytest.fixture(scope="session")
def gpt2(gpt2_encoder: Path) -> Tokenizer:
    return load(gpt2_encoder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Tokenizer:
    return train_byte_bpe(TEXTS, n_vocab=300, out=tmp_path_factory.mktemp("trained"))


def reference_batch(tokenizer: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Encodes a batch as on systems without gigatoken."""
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
    del older["model"]["vocab"][END]  # some writers list special tokens only among the added tokens
    (tmp_path / "older.json").write_text(json.dumps(older), encoding="utf-8")
    for path in ("json", "json/tokenizer.json", "pair", "pair/merges.txt", "older.json"):
        assert load(tmp_path / path).digest == gpt2.digest, path


def test_digest_differs_with_any_token_or_merge():
    def digest(*merges: tuple[str, str]) -> str:
        vocab = vocab_files.BYTE_VOCAB | {"ab": 256, "bc": 257}
        contents = vocab_files.definition(vocab=vocab, merges=merges)
        return ByteLevelBPE(vocab_files.checked(contents, source="x"), source="x").digest

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
    assert [note.partition(",")[0] for note in notes] == [f"learning from a sample of {x} kB" for x in ("125", "500")]


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
    vocab = {**vocab_files.BYTE_VOCAB, "e\u0120": 256, "e\u0120t": 257}
    contents = vocab_files.definition(vocab=vocab, merges=[("e", "\u0120"), ("e\u0120", "t")]) | change
    tokenizer = ByteLevelBPE(vocab_files.checked(contents, source="odd.json"), source="odd.json")
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
    contents = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB, merges=[])
    spaces = contents["added_tokens"][0] | {"id": 257, "content": "    ", "special": False}
    contents["added_tokens"].append(spaces)
    contents["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = ByteLevelBPE(vocab_files.checked(contents, source="x"), source="x")
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


def test_other_libraries_decode_added_tokens_whose_letters_also_stand_for_bytes(trained, tmp_path):
    import tokenizers

    names = ["<|ren\u00e9|>", "<|ren\u00e9|>\u043c\u0438\u0440", "a.\u00e9+", "Stra\u00dfe", "\u0111em", "<|user|>"]
    text = "\u00e9 \u00df " + " ".join(names)
    with_special_tokens(trained, names).save(tmp_path / "saved")
    load(tmp_path / "saved").save(tmp_path / "again")
    for folder in ("saved", "again"):
        other = tokenizers.Tokenizer.from_file(str(tmp_path / folder / "tokenizer.json"))
        ids = other.encode(text).ids
        assert other.decode(ids, skip_special_tokens=False) == load(tmp_path / folder).decode(ids) == text
    contents = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    plain = tokenizers.Tokenizer.from_str(json.dumps(contents | {"decoder": contents["decoder"]["decoders"][-1]}))
    assert plain.decode(ids, skip_special_tokens=False) != text  # else the replaced decoder has become superfluous


@pytest.mark.parametrize("name", ["", "a", "!"])
def test_ordinary_tokens_cannot_become_special(trained, name):
    with pytest.raises(UserError, match="cannot be a special token"):
        with_special_tokens(trained, [name])


def broken(tmp_path: Path, **files: str | bytes) -> Path:
    for name, contents in files.items():
        path = tmp_path / name.replace("__", ".")
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return tmp_path


GOOD = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB, merges=[])


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


def cutting_vocabulary(**added) -> ByteLevelBPE:
    """Returns a vocabulary whose ids show where a character is split from a letter, a digit, or punctuation."""
    chars = vocab_files._CHARS
    merges = [(first, chars[byte]) for first in "a1!" for byte in range(0xC2, 0xF5)]
    vocab = vocab_files.BYTE_VOCAB | {"".join(pair): 256 + i for i, pair in enumerate(merges)}
    contents = vocab_files.definition(vocab=vocab, merges=merges)
    if added:
        contents["added_tokens"].append(vocab_files.added_token("zq", len(vocab) + 1, special=False) | added)
    return ByteLevelBPE(vocab_files.checked(contents, source="x"), source="x")


def test_code_points_that_the_libraries_classify_differently_have_one_encoding(capsys):
    pytest.importorskip("gigatoken", reason="compares gigatoken with tokenizers")
    tokenizer = cutting_vocabulary()
    places = [*range(0x80, 0xD800, 7), *range(0xA7C0, 0xA800), *range(0x10000, 0x20000, 5), *range(0x323A0, 0x323C0)]
    places += [0x88F, 0xC5C, 0xCDC, 0x1ACF, 0x2B73A, 0x2CEA2, 0x33479]
    texts = [f"a{chr(place)}1{chr(place)}!{chr(place)}" for place in places]
    batch = tokenizer.encode_batch(texts)
    assert capsys.readouterr().err == "", "gigatoken was not used"
    for text, ids in zip(texts, batch, strict=True):
        assert ids.tolist() == tokenizer.encode(text), ascii(text)


def test_batches_are_exact_where_gigatoken_cannot_import_awkward(monkeypatch, capsys):
    """As without memory for it; batches are lists of arrays then."""
    pytest.importorskip("gigatoken", reason="compares gigatoken with tokenizers")
    texts = ["", "a1!", "", "a\u088f1", ""]
    tokenizer = cutting_vocabulary()
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setitem(sys.modules, "awkward", None)
    for batch in (texts, []):
        ids = tokenizer.encode_batch(batch)
        assert [each.tolist() for each in ids] == expected[: len(batch)]
        assert all(each.dtype == np.int32 for each in ids)
    assert capsys.readouterr().err == "", "gigatoken was not used"


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
def test_flags_of_added_tokens_have_one_encoding(flag):
    tokenizer = cutting_vocabulary(**{flag: True})
    for text in ("a zq b", "zqzq", " zq", "azqb zq"):
        assert tokenizer.encode_batch([text])[0].tolist() == tokenizer.encode(text)


def test_a_pair_with_robertas_special_tokens_equals_its_tokenizer_json(tmp_path):
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {name: i for i, name in enumerate(names)} | {char: 5 + i for char, i in vocab_files.BYTE_VOCAB.items()}
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8-sig")
    (tmp_path / "pair" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8-sig")
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(names)
    library.save(str(tmp_path / "tokenizer.json"))
    pair, whole = load(tmp_path / "pair"), load(tmp_path / "tokenizer.json")
    assert (pair.n_vocab, pair.end_of_text, pair.digest) == (whole.n_vocab, whole.end_of_text, whole.digest)
    assert (pair.n_vocab, pair.end_of_text) == (261, 2)
    assert pair.encode("a</s>", special=True) == whole.encode("a</s>", special=True)


def test_dropout_of_merges_is_left_out_and_said(tmp_path, capsys):
    contents = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB | {"ab": 256}, merges=[("a", "b")])
    contents["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents), encoding="utf-8")
    tokenizer = load(tmp_path)
    assert "dropout of merges" in capsys.readouterr().err
    assert {tuple(tokenizer.encode("ab" * 20)) for _ in range(5)} == {(256,) * 20}


def pair_with_added_tokens(folder, added) -> None:
    vocab = byte_level_tokenizer().definition()["model"]["vocab"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))


def test_added_tokens_beside_a_pair_of_files_are_part_of_the_vocabulary(tmp_path):
    size = byte_level_tokenizer().n_vocab
    pair_with_added_tokens(tmp_path / "e", {"<|user|>": size + 1, "<|pad|>": size, "<|endoftext|>": size - 1})
    tokenizer = load(tmp_path / "e")
    assert tokenizer.n_vocab == size + 2
    assert tokenizer.special_tokens == {"<|endoftext|>": size - 1, "<|pad|>": size, "<|user|>": size + 1}
    pair_with_added_tokens(tmp_path / "same", {"<|endoftext|>": size - 1})
    assert load(tmp_path / "same").digest == byte_level_tokenizer().digest


@pytest.mark.parametrize("added", [{"<|pad|>": 999}, {"<|pad|>": 3}, {"<|pad|>": "257"}])
def test_added_tokens_that_do_not_continue_the_vocabulary_are_refused(added, tmp_path):
    pair_with_added_tokens(tmp_path / "e", added)
    with pytest.raises(UserError, match=r"added_tokens\.json.*'<\|pad\|>'.* the id '?(999|3|257)'?"):
        load(tmp_path / "e")


def pair_of_bytes(folder: Path, *names: str, prefix: str = "", **files: object) -> Path:
    """Writes a vocabulary of all bytes and `names` as a pair of files, plus more files given as name_json=contents."""
    folder.mkdir(exist_ok=True)
    vocab = vocab_files.BYTE_VOCAB | {name: 256 + i for i, name in enumerate(names)}
    (folder / f"{prefix}vocab.json").write_text(json.dumps(vocab))
    (folder / f"{prefix}merges.txt").write_text("#version: 0.2\n")
    for name, contents in files.items():
        (folder / name.replace("_json", ".json")).write_text(json.dumps(contents))
    return folder


def test_files_of_transformers_name_the_end_and_the_special_tokens(tmp_path):
    """The ids match those of the library that wrote the files."""
    transformers = pytest.importorskip("transformers", reason="the independent reader")
    names = ("<|start|>", "<|stop|>", "<|pad|>")
    tokens = {"eos_token": {"content": "<|stop|>", "lstrip": False}, "pad_token": "<|pad|>", "bos_token": "<|start|>"}
    added = {"grep": 259, "<|user|>": 260}
    special = tokens | {"additional_special_tokens": ["<|user|>"]}
    folder = pair_of_bytes(tmp_path / "a", *names, special_tokens_map_json=special, added_tokens_json=added)
    ours = load(folder)
    assert (ours.n_vocab, ours.end_of_text) == (261, 257)
    assert ours.special_tokens == {"<|start|>": 256, "<|stop|>": 257, "<|pad|>": 258, "<|user|>": 260}
    assert ours.encode("a grep b")[2] == 259, "an added token that is not special is text"
    assert 260 not in ours.encode("<|user|>")
    ours.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.digest, again.end_of_text, again.special_tokens) == (ours.digest, 257, ours.special_tokens)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "a grep b<|user|>x<|stop|>"
    assert theirs(text)["input_ids"] == ours.encode(text, special=True)
    assert theirs.eos_token_id == 257


@pytest.mark.parametrize("names", [("<eos>",), ("<eos>", "</s>"), ("<eos>", END)])
def test_the_end_of_a_tokenizer_json_is_that_of_tokenizer_config(names, tmp_path):
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab_files.BYTE_VOCAB, []))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(list(names))
    library.save(str(tmp_path / "tokenizer.json"))
    before = load(tmp_path)
    assert before.end_of_text == (None if len(names) == 1 else 257)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    after = load(tmp_path)
    assert after.end_of_text == 256
    assert (after.digest == before.digest) == (before.end_of_text is None), "shards with the usual end would not fit"
    after.save(tmp_path / "saved")
    assert (load(tmp_path / "saved").digest, load(tmp_path / "saved").end_of_text) == (after.digest, 256)


def test_files_of_transformers_that_say_nothing_new_change_no_digest(gpt2, gpt2_encoder, tmp_path):
    """Uses the files of the Hub's gpt2, with a text token for padding as in many models."""
    for name, source in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (tmp_path / name).write_bytes((gpt2_encoder / source).read_bytes())
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": END, "unk_token": END, "pad_token": "!"})
    )
    decoder = {"50256": {"content": END, "special": True, "normalized": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "added_tokens_decoder": decoder}))
    tokenizer = load(tmp_path)
    assert (tokenizer.digest, tokenizer.end_of_text) == (gpt2.digest, 50256)
    assert tokenizer.token_bytes()[tokenizer.encode("!")] == 1


def test_a_pair_gets_an_end_of_its_own_only_where_no_token_is_one(tmp_path):
    eos = {"eos_token": "[EOS]"}
    named = load(pair_of_bytes(tmp_path / "a", "[EOS]", special_tokens_map_json=eos))
    assert (named.n_vocab, named.end_of_text) == (257, 256)
    missing = load(pair_of_bytes(tmp_path / "b", "[PAD]", special_tokens_map_json=eos))
    assert (missing.n_vocab, missing.end_of_text) == (258, 257)
    assert missing.special_tokens == {END: 257}


def test_pairs_with_a_prefix_are_found_if_there_is_one(tmp_path):
    folder = pair_of_bytes(tmp_path, END, prefix="aitextgen-")
    for place in (folder, folder / "aitextgen-vocab.json", folder / "aitextgen-merges.txt"):
        assert load(place).digest == byte_level_tokenizer().digest
    (folder / "aitextgen-merges.txt").rename(tmp_path / "other-merges.txt")
    with pytest.raises(UserError, match=r"has aitextgen-vocab\.json but not aitextgen-merges\.txt"):
        load(folder)
    pair_of_bytes(tmp_path, END, prefix="other-")
    with pytest.raises(UserError, match=r"several vocabularies \(aitextgen-vocab\.json, other-vocab\.json\)"):
        load(folder)
    assert load(folder / "other-vocab.json").n_vocab == 257
    pair_of_bytes(tmp_path)
    assert load(folder).n_vocab == 257


@pytest.mark.parametrize(
    "model", [{"type": "Unigram", "vocab": [["a", 0.0]]}, {"type": "BPE", "byte_fallback": True, "vocab": {"a": 0}}]
)
def test_a_sentencepiece_vocabulary_as_a_tokenizer_json_is_named(model, tmp_path):
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "pre_tokenizer": metaspace}))
    with pytest.raises(UserError, match=r"as SentencePiece makes: give its \.model file"):
        load(tmp_path)
    (tmp_path / "a.model").write_bytes(b"")
    assert vocab_files.kind(tmp_path) == (vocab_files.SENTENCEPIECE, tmp_path / "a.model")
