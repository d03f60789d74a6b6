"""SentencePiece vocabularies: lossless text, same ids as the library, third-party models, and no crash on bad input."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.main_runs import call, metrics, options
from helpers.texts import AWKWARD, random_texts

from estimator.errors import UserError
from estimator.generation.completion import PredictionConfig, generate
from estimator.tokenization import sentencepiece as sentencepiece_vocabulary
from estimator.tokenization.tokenizer import PROBE, byte_level_tokenizer, load, with_special_tokens
from estimator.tokenization.train_sentencepiece import train_sentencepiece

sentencepiece = pytest.importorskip("sentencepiece", reason="SentencePiece is an optional package")
END = "<|endoftext|>"
TEXTS = [
    "The quick brown fox jumps over the lazy dog, and  runs.\n\tdef f(x):\n        return x * 2\n" * 20,
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0 and \u0440\u0443\u0441\u0441\u043a\u0438\u0439 text; the dog thinks.\r\n"
    * 20,
]
HARD = [
    *AWKWARD, *TEXTS, PROBE, "a\u2581b \u2581\u2581 c", "\u2581", "\u2585", "<unk><s></s><0x41>", "\n" * 3000,
    "x" * 5000, " " * 700, "line \n" * 1000, "no end of line " * 300, " leading and trailing ", "\t\x00\r\n\x85\u2028",
]  # fmt: skip


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def folder(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    train_sentencepiece(TEXTS, n_vocab=400, out=out, model_type=request.param, special_tokens=["<|user|>"])
    return out


def library(folder: Path):
    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


def test_every_text_comes_back_from_its_ids(folder, capsys):
    tokenizer = load(folder)
    texts = [*HARD, *random_texts(300)]
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert lengths[ids].sum() == len(text.encode())
        assert tokenizer.encode(text) == ids.tolist() == tokenizer.encode_utf8([text.encode()])[0].tolist()
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert capsys.readouterr().err == ""


def test_ids_are_those_of_the_library(folder):
    tokenizer, other = load(folder), library(folder)
    texts = [text for text in [*HARD, *random_texts(200)] if "\u2581" not in text]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == other.encode(texts)
    assert tokenizer.n_vocab == other.vocab_size()
    assert tokenizer.end_of_text == other.eos_id() == 1


def test_batches_are_the_same_with_and_without_gigatoken(folder, monkeypatch, capsys):
    tokenizer = load(folder)
    is_bpe = tokenizer._model.model_type == "BPE"
    texts = [*HARD, *random_texts(300)]
    expected = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    assert (tokenizer._fast != tokenizer._library) == is_bpe
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    slow = load(folder)
    assert [ids.tolist() for ids in slow.encode_batch(texts)] == expected
    assert ("gigatoken is not installed; encoding more slowly" in capsys.readouterr().err) == is_bpe


def test_batches_are_exact_when_gigatoken_is_wrong(folder, monkeypatch, capsys):
    import gigatoken

    tokenizer = load(folder)
    if tokenizer._model.model_type == "BPE":
        wrong = gigatoken.Tokenizer.from_json(byte_level_tokenizer()._plain_contents)
        monkeypatch.setattr(gigatoken.Tokenizer, "from_sentencepiece", lambda data: wrong)
        assert tokenizer.encode_batch(["the dog"])[0].tolist() == library(folder).encode("the dog")
        assert "gigatoken gives other ids" in capsys.readouterr().err


def test_pieces_that_look_like_bytes_or_special_tokens_are_plain_text(tmp_path):
    texts = ["<0x41> <0x42> <0x0A> <s> <|user|> " * 300]
    tokenizer = train_sentencepiece(texts, n_vocab=330, out=tmp_path, special_tokens=["<s>", "<|user|>"])
    for text in [*texts, "<0x41>", "<s>", "<|user|><s><0xFF><|endoftext|>"]:
        (ids,) = tokenizer.encode_batch([text])
        assert ids.tolist() == tokenizer.encode(text) == library(tmp_path).encode(text)
        assert tokenizer.decode(ids) == text
        assert not {1, 2, 3} & set(ids.tolist())


def test_special_tokens_are_plain_text_unless_asked_for(folder):
    tokenizer = load(folder)
    assert tokenizer.special_tokens == {"<unk>": 0, END: 1, "<|user|>": 2}
    text = f"a{END}b<|user|>"
    assert not {1, 2} & set(tokenizer.encode(text))
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    assert tokenizer.encode(text, special=True) == [a, 1, b, 2]
    assert tokenizer.encode("", special=True) == []
    assert tokenizer.decode([a, 1, b, 2]) == text
    assert tokenizer.token_bytes()[:3].tolist() == [0, 0, 0]


def test_tokens_that_transformers_added_are_read(folder, tmp_path, capsys):
    size = load(folder).n_vocab
    (tmp_path / "a.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": size + 1, "<|sep|>": size}))
    tokenizer = load(tmp_path)
    assert tokenizer.n_vocab == size + 2
    assert (tokenizer.special_tokens["<|sep|>"], tokenizer.special_tokens["<pad>"]) == (size, size + 1)
    capsys.readouterr()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": size + 1}))
    assert load(tmp_path).n_vocab == size
    assert "added tokens are left out: their ids" in capsys.readouterr().err


def test_special_tokens_are_added_after_the_last(folder, tmp_path):
    tokenizer = load(folder)
    more = with_special_tokens(tokenizer, ["<|bot|>", END])
    assert more.special_tokens == tokenizer.special_tokens | {"<|bot|>": tokenizer.n_vocab}
    more.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.digest == more.digest != tokenizer.digest
    assert loaded.encode("<|bot|>", special=True) == [tokenizer.n_vocab]
    assert [loaded.encode(text) for text in HARD] == [tokenizer.encode(text) for text in HARD]
    with pytest.raises(UserError, match="cannot be a special token"):
        with_special_tokens(tokenizer, ["a"])


def test_characters_in_several_ids_stream_whole(folder):
    tokenizer = load(folder)
    text = "a\U0001f469\u200d\U0001f467 END rest"
    ids = tokenizer.encode(text)
    half = ids[: ids.index(tokenizer.encode("a")[0]) + 2]
    assert tokenizer.decode(half) == "a\ufffd"
    assert tokenizer.decode_bytes(half) == "a\U0001f469".encode()[:2]

    def stream(prompts, *, stopped, first_row):
        for token in ids:
            yield [[token]]

    (written,) = generate([1], tokenizer, stream, PredictionConfig(stop=["END"]))
    assert written == text.partition("END")[0]


def test_digest_is_of_the_pieces_not_of_the_bytes_of_the_file(folder, tmp_path):
    pytest.importorskip("google.protobuf", reason="writes the file anew")
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    digests = {load(folder).digest}
    (tmp_path / "a.model").write_bytes(model.SerializeToString() + b"\x12\x05\x12\x03xyz")  # a trainer setting
    assert {load(tmp_path).digest} == digests
    model.pieces[-1].score -= 1
    (tmp_path / "a.model").write_bytes(model.SerializeToString())
    digests.add(load(tmp_path).digest)
    model.normalizer_spec.add_dummy_prefix = True
    (tmp_path / "a.model").write_bytes(model.SerializeToString())
    digests.add(load(tmp_path).digest)
    assert len(digests) == 3


def test_text_without_any_blank_or_newline_still_gives_a_vocabulary_that_keeps_them(tmp_path):
    tokenizer = train_sentencepiece(["\u65e5\u672c\u8a9e" * 50], n_vocab=300, out=tmp_path)
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_transformers_reads_the_folder_with_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the independent reader")
    tokenizer = train_sentencepiece(TEXTS, n_vocab=400, out=tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    texts = [
        text for text in [*AWKWARD, *TEXTS, "\n\n a", *random_texts(100)] if END not in text and "\u2581" not in text
    ]
    assert [other(text, add_special_tokens=False)["input_ids"] for text in texts] == [
        tokenizer.encode(t) for t in texts
    ]
    assert other.eos_token_id == tokenizer.end_of_text


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Trains a vocabulary in the same way as lopuhin/transformer-lm."""
    folder = tmp_path_factory.mktemp("foreign")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in TEXTS for line in text.split("\n")), model_prefix=str(folder / "sp"),
        model_type="bpe", vocab_size=200, hard_vocab_limit=False, max_sentence_length=16384, bos_id=-1, eos_id=-1,
        unk_piece="<unk>", control_symbols=["<endofline>", "<endoftext>"], character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (folder / "sp.vocab").unlink()
    return folder


def test_foreign_models_work_as_in_their_own_program(foreign, capsys):
    tokenizer = load(foreign)
    assert "does not keep text exactly: it rewrites characters, puts a blank" in capsys.readouterr().err
    other = sentencepiece.SentencePieceProcessor(str(foreign / "sp.model"))
    line, text = other.piece_to_id("<endofline>"), other.piece_to_id("<endoftext>")
    assert tokenizer.end_of_text == text
    assert tokenizer.special_tokens == {"<unk>": 0, "<endoftext>": text}
    document = "The quick fox\n\n  runs. \n"
    expected = [id for part in document.splitlines() for id in [*other.encode(part), line]]
    assert tokenizer.encode(document) == tokenizer.encode_batch([document])[0].tolist() == expected
    assert tokenizer.decode(expected) == " The quick fox\n\nruns.\n"
    assert tokenizer.token_bytes()[[line, text]].tolist() == [1, 0]
    assert with_special_tokens(tokenizer, ["<|user|>"]).special_tokens["<|user|>"] == other.vocab_size()


def test_a_vocabulary_without_bytes_says_what_it_loses(tmp_path, capsys):
    tokenizer = train_sentencepiece(TEXTS, n_vocab=200, out=tmp_path, byte_fallback=False, character_coverage=1.0)
    assert "has no bytes for unknown characters" in capsys.readouterr().err
    for text in [*TEXTS, "a\n\n\tb  c"]:
        kept = text.replace("\r", "")
        assert tokenizer.decode(tokenizer.encode(kept)) == kept
    assert tokenizer.encode("\U0001f469") == [tokenizer.special_tokens["<unk>"]]


def test_junk_is_a_message_and_the_process_lives(folder, tmp_path):
    good = (folder / "tokenizer.model").read_bytes()
    draw = random.Random(0)
    files = [
        b"",
        b"junk",
        draw.randbytes(5000),
        good[: len(good) // 2],
        good[:-1],
        b"version https://git-lfs.github.com/spec\n",
    ]
    for _ in range(100):
        broken = bytearray(good)
        for _ in range(3):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        files.append(bytes(broken))
    messages = []
    for contents in files:
        (tmp_path / "a.model").write_bytes(contents)
        try:
            load(tmp_path).encode("hello \u65e5")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) >= 6
    assert all("a.model" in message for message in messages)


def test_without_the_library_the_message_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"tokenizer\.model: SentencePiece needs a library: pip install"):
        load(folder)


def test_kinds_that_take_no_special_tokens_say_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("<unk>\na\n")
    with pytest.raises(UserError, match="cannot be added to a WordPiece"):
        with_special_tokens(load(tmp_path), ["<|user|>"])
    assert with_special_tokens(byte_level_tokenizer(), []).n_vocab == 257


def test_a_model_trains_and_generates_with_a_sentencepiece_vocabulary(corpus, tmp_path, monkeypatch, capsys):
    texts = [file.read_text() for file in sorted(corpus.iterdir())]
    train_sentencepiece(texts, n_vocab=300, out=tmp_path / "encoder")
    arguments = options(corpus, tmp_path, max_steps=2, train_steps=2, encoder_path=str(tmp_path / "encoder"))
    call(monkeypatch, arguments)
    assert [record["step"] for record in metrics(tmp_path, "train")] == [1, 2]
    assert metrics(tmp_path, "eval")[-1]["bits_per_byte"] > 0
    capsys.readouterr()
    call(monkeypatch, [*arguments, "--predict_text", "The quick", "--seed", "1"])
    assert "SAMPLE 0 " in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["encoder_path"] == str(tmp_path / "encoder")


def test_the_hint_names_a_file_that_the_repository_has():
    name = sentencepiece_vocabulary.INSTALL.rpartition(" ")[2]
    assert "sentencepiece" in (Path(__file__).parents[3] / name).read_text()
