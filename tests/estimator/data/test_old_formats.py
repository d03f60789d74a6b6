"""Data prepared for each of five GPT-2 projects of 2019-2020 trains unmodified, for ten steps through main.py."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from conftest import one_device

import main
from estimator.data.config import InputConfig
from estimator.tokenization.tokenizer import load
from inputs import open_data

WORDS = [
    "the",
    "old",
    "king",
    "queen",
    "knight",
    "spoke",
    "walked",
    "slept",
    "near",
    "river",
    "castle",
    "night",
    "again",
]
MODEL = {"n_ctx": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "attention": "reference", "scale_by_in": False}
RUN = {"train_batch_size": 4, "train_steps": 10, "eval_steps": 1, "max_steps": 10, "log_steps": 1, "lr": 0.01}


def sentences(count, *, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(5, 20))) + "." for _ in range(count)]


@pytest.fixture
def train(tmp_path, monkeypatch, capfd):
    """Trains ten steps on one device in this process; returns the records of metrics.jsonl and all printed output."""
    devices = one_device()
    monkeypatch.setattr(jax, "devices", lambda *_: devices)

    def run(**values):
        values = MODEL | RUN | {"model_path": str(tmp_path / "run")} | values
        (tmp_path / "model.json").write_text(json.dumps(values))
        monkeypatch.setattr(sys, "argv", ["main.py", "--model", str(tmp_path / "model.json"), "--clean"])
        capfd.readouterr()
        main.main()
        printed = "".join(capfd.readouterr())
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        assert len(losses) == 10
        assert np.isfinite(losses).all()
        assert np.mean(losses[5:]) < np.mean(losses[:5])
        assert [line["step"] for line in lines if line["split"] == "eval"][-1] == 10
        return lines, printed

    return run


def opened(**values):
    config = InputConfig(**{key: value for key, value in values.items() if key in InputConfig.model_fields})
    return open_data(config, n_ctx=MODEL["n_ctx"], n_vocab=values["n_vocab"], cache=values["cache"])


# ConnorJL/GPT2: shards written by its own script.


def test_connorjl_shards(fixtures, tmp_path, train):
    shutil.copytree(fixtures / "tfrecords", tmp_path / "data")
    train(input="openwebtext", data_path=str(tmp_path / "data"), n_vocab=50257)


# lopuhin/transformer-lm: train.npy, valid.npy, and test.npy with SentencePiece ids.


@pytest.fixture
def lopuhin(tmp_path):
    """Returns a corpus of train, valid, and test texts, with the files that sp-train and sp-encode made of it."""
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="the vocabularies of transformer-lm are SentencePiece's"
    )
    for number, (part, count) in enumerate({"train": 40, "valid": 4, "test": 4}.items()):
        folder = tmp_path / "corpus" / part / "sub"
        folder.mkdir(parents=True)
        for file in range(count):
            (folder / f"{file}.txt").write_text("\n".join(sentences(9, seed=1000 * number + file)))
    text = tmp_path / "sp-text.txt"
    text.write_text("\n".join(path.read_text() for path in sorted((tmp_path / "corpus" / "train").rglob("*.txt"))))
    (tmp_path / "encoder").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "encoder" / "sp"),
        vocab_size=60,
        model_type="bpe",
        max_sentence_length=16384,
        bos_id=-1,
        eos_id=-1,
        unk_piece="<unk>",
        control_symbols="<endofline>,<endoftext>",
        minloglevel=2,
    )
    (tmp_path / "encoder" / "sp.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "encoder" / "sp.model"))
    end_of_line, end_of_text = map(processor.piece_to_id, ("<endofline>", "<endoftext>"))
    (tmp_path / "encoded").mkdir()
    for part in ("train", "valid", "test"):
        ids = []
        for path in sorted((tmp_path / "corpus" / part).rglob("*.txt")):
            for line in path.read_text().splitlines():
                ids += [*processor.encode(line), end_of_line]
            ids.append(end_of_text)
        np.save(tmp_path / "encoded" / f"{part}.npy", np.array(ids, np.uint16))
    return tmp_path


def test_lopuhin_arrays(lopuhin, train):
    values = {"input": "packed", "data_path": str(lopuhin / "encoded"), "encoder_path": str(lopuhin / "encoder")}
    lines, printed = train(n_vocab=60, n_ctx_min=4, **values)
    assert "train.npy is trained on and valid.npy is evaluated on" in printed
    assert "40 documents" in printed
    assert "4 documents" in printed
    assert "train.npy and 1 more does not say which it was made with" in printed
    assert all("bits_per_byte" in line for line in lines if line["split"] == "eval")


def test_lopuhin_text(lopuhin):
    values = {"input": "text", "data_path": str(lopuhin / "corpus"), "encoder_path": str(lopuhin / "encoder")}
    notes = opened(n_vocab=60, cache=lopuhin / "cache", **values).notes
    assert "40 documents" in notes[0]
    assert "4 documents" in notes[0]
    assert any("valid/: not trained on, but evaluated on; test/: not used" in note for note in notes)


def test_lopuhin_windows_of_sentences_begin_with_them(lopuhin):
    encoder = load(lopuhin / "encoder")
    values = {"input": "packed", "data_path": str(lopuhin / "encoded"), "encoder_path": str(lopuhin / "encoder")}
    train = opened(n_vocab=60, cache=lopuhin / "cache", sampling="sentences", **values).train
    joined = np.load(lopuhin / "encoded" / "train.npy").tolist()
    joined = joined + joined[:40]
    before = set()
    for number in range(60):
        window = train[number].tolist()
        place = next(i for i in range(len(joined)) if joined[i : i + len(window)] == window)
        before.add(encoder.decode_bytes([joined[place - 1]]))
    assert {token[-1:] if token.endswith(b".") else token for token in before} <= {b".", b"\n", b"<endoftext>"}


# nshepperd/gpt-2 and xeb/gpt-2: .npz chunks of files joined by the text <|endoftext|>.


@pytest.fixture
def nshepperd(tmp_path, gpt2_encoder):
    encoder = load(gpt2_encoder)
    texts = ["\n".join(sentences(20, seed=seed)) + "\n" for seed in range(60)]
    chunks = ["<|endoftext|>".join(texts[first : first + 20]) for first in range(0, 60, 20)]
    np.savez_compressed(tmp_path / "data.npz", *[np.stack(encoder.encode(chunk)) for chunk in chunks])
    return tmp_path, encoder


def test_nshepperd_chunks(nshepperd, gpt2_encoder, train):
    folder, encoder = nshepperd
    values = {"input": "packed", "data_path": str(folder / "data.npz"), "n_vocab": 50257}
    _, printed = train(**values, sampling="random")
    assert "data.npz does not say which it was made with; it is taken to be GPT-2's" in printed
    data = opened(**values, encoder_path=str(gpt2_encoder), cache=folder / "cache")
    windows = [data.train[i][:-1] for i in range(data.train.windows_per_epoch)]
    text = encoder.decode(np.concatenate(windows))
    assert "<|endoftext|>" in text
    assert not np.isin(np.concatenate(windows), [437]).any()  # the last token of an end-of-text encoded as text


def test_dixie_chunks_in_a_folder(nshepperd, train):
    folder, encoder = nshepperd
    (folder / "data").mkdir()
    for number in range(3):
        ids = [np.array(encoder.encode(text), np.uint16) for text in sentences(200, seed=number)]
        np.savez_compressed(folder / "data" / f"lines_{number}.npz", *ids)
    train(input="packed", data_path=str(folder / "data"), n_vocab=50257, eval_split=[2])


# affjljoo3581/GPT2: lines of subwords with their vocab.txt.


@pytest.fixture
def affjljoo(tmp_path):
    words = [*WORDS, "cast", "##le", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(["<unk>", *words]))
    for part, count in {"train": 400, "test": 50}.items():
        lines = [line.replace(".", " .").replace("castle", "cast ##le") for line in sentences(count, seed=count)]
        (tmp_path / f"corpus.{part}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_affjljoo_lines_of_tokens(affjljoo, train):
    values = {
        "input": "text",
        "text_format": "tokens",
        "data_path": str(affjljoo / "corpus.*.txt"),
        "eval_split": str(affjljoo / "corpus.test.txt"),
        "encoder_path": str(affjljoo),
        "n_vocab": 32,
    }
    _, printed = train(separate_documents=True, noise=0.1, **values)
    assert "400 documents" in printed
    assert "50 documents" in printed
    data = opened(**values, cache=affjljoo / "cache")
    vocabulary = load(affjljoo)
    start, end = vocabulary.special_tokens["<s>"], vocabulary.end_of_text
    ids = np.stack([data.train[i] for i in range(data.train.windows_per_epoch)])
    assert set(ids[:, 1:][ids[:, :-1] == end].tolist()) == {start}
    assert vocabulary.special_tokens["<unk>"] not in ids


def test_text_format_tokens_needs_its_kind_of_vocabulary(affjljoo, gpt2_encoder):
    from estimator.errors import UserError

    values = {"input": "text", "text_format": "tokens", "data_path": str(affjljoo / "corpus.train.txt")}
    with pytest.raises(UserError, match=r"text_format: .* another; name its folder"):
        opened(**values, encoder_path=str(gpt2_encoder), n_vocab=50257, cache=affjljoo / "cache")
    with pytest.raises(ValueError, match="text_format tokens needs the folder"):
        opened(**values, n_vocab=50257, cache=affjljoo / "cache")
