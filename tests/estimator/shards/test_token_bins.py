"""Token files of nanoGPT, llm.c, and Megatron, written here in the same way as by these programs, are read exactly."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from estimator import storage
from estimator.data import remote_data, text_input
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.shards import token_bins
from estimator.shards.npy_files import Ends
from estimator.shards.numpy_shards import open_array
from inputs import open_data

END = 50256


def ids(count=3000, *, seed=0, vocabulary=END, every=100):
    """Returns random ids with an end-of-text token after every `every` tokens."""
    found = np.random.default_rng(seed).integers(1, vocabulary, count)
    found[every - 1 :: every] = END
    return found


def documents_of(found):
    return [part[:-1].tolist() for part in np.split(found, np.flatnonzero(found == END) + 1) if len(part)]


def texts_of(shard):
    return [shard.tokens(i).tolist() for i in range(len(shard))]


def nanogpt(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    found.astype(np.uint16).tofile(path)
    return path


def llm_c(path, found, *, magic=20240520, version=1, dtype=np.uint16):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(found)
    path.write_bytes(header.tobytes() + found.astype(dtype).tobytes())
    return path


def megatron(path, texts, *, code=8, dtype=np.uint16, modes=b""):
    """Writes one sequence per document without end-of-text tokens, as Megatron does without --append-eod."""
    path.write_bytes(np.concatenate(texts).astype(dtype).tobytes())
    sizes = np.array(list(map(len, texts)), np.int32)
    pointers = (np.concatenate([[0], sizes.cumsum()[:-1]]) * np.dtype(dtype).itemsize).astype(np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(texts), len(texts) + 1)
    borders = np.arange(len(texts) + 1, dtype=np.int64)
    path.with_suffix(".idx").write_bytes(head + sizes.tobytes() + pointers.tobytes() + borders.tobytes() + modes)
    return path


def test_files_are_the_documents_that_were_written(tmp_path):
    found = ids()
    written = [
        nanogpt(tmp_path / "a.bin", found),
        llm_c(tmp_path / "b.bin", found),
        llm_c(tmp_path / "c.bin", found, magic=20240801, version=7, dtype=np.uint32),
    ]
    found.astype(np.int32).tofile(tmp_path / "d.bin")  # as the first version of llm.c
    for path in [*written, tmp_path / "d.bin"]:
        assert texts_of(open_array(path, Ends(END))) == documents_of(found), path


@pytest.mark.parametrize("vocabulary", [16, 300, 70_000, 151_000])
def test_ids_without_a_header_are_read_with_the_bytes_that_they_have(vocabulary, tmp_path):
    found = ids(vocabulary=vocabulary)
    for dtype in (np.uint16, np.uint32)[vocabulary > 65536 :]:
        found.astype(dtype).tofile(tmp_path / "train.bin")
        assert texts_of(open_array(tmp_path / "train.bin", Ends(END))) == documents_of(found), dtype


@pytest.mark.parametrize(
    ("code", "dtype", "modes"), [(8, np.uint16, b""), (4, np.int32, bytes(40)), (5, np.int64, b"")]
)
def test_documents_of_megatron_are_those_of_its_index(tmp_path, code, dtype, modes):
    random = np.random.default_rng(0)
    texts = [random.integers(0, 5000, random.integers(1, 90)) for _ in range(40)]
    path = megatron(tmp_path / "text_document.bin", texts, code=code, dtype=dtype, modes=modes)
    assert texts_of(open_array(path, Ends(END))) == [text.tolist() for text in texts]
    texts = [np.append(text, END) for text in texts]  # as with --append-eod
    path = megatron(tmp_path / "eod_document.bin", texts, code=code, dtype=dtype, modes=modes)
    assert texts_of(open_array(path, Ends(END))) == [text[:-1].tolist() for text in texts]


def test_a_file_of_megatron_in_a_bucket_brings_its_index(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    texts = [np.arange(1, length) for length in range(2, 90)]
    path = megatron(tmp_path / "text_document.bin", texts, code=4, dtype=np.int32)
    for each in (path, path.with_suffix(".idx")):
        storage.write_bytes_atomic(f"gs://bucket/d/{each.name}", each.read_bytes())
    copy = remote_data.with_local_copies(InputConfig(input="packed", data_path=f"gs://bucket/d/{path.name}")).data_path
    assert texts_of(open_array(Path(copy), Ends(END))) == [text.tolist() for text in texts]


def test_train_and_val_are_what_their_names_say(tmp_path):
    nanogpt(tmp_path / "data" / "train.bin", ids(9000))
    nanogpt(tmp_path / "data" / "val.bin", ids(1000, seed=1))
    config = InputConfig(input="packed", data_path=str(tmp_path / "data"))
    data = open_data(config, n_ctx=16, n_vocab=50257, cache=tmp_path / "cache")
    assert any("train.bin is trained on and val.bin is evaluated on" in note for note in data.notes)
    assert "10 documents (990 tokens) for evaluation" in data.notes[0]
    llm_c(tmp_path / "fineweb_train_000001.bin", ids(9000))
    llm_c(tmp_path / "fineweb_val_000000.bin", ids(1000, seed=1))
    config = InputConfig(input="packed", data_path=str(tmp_path / "fineweb_*.bin"))
    data = open_data(config, n_ctx=16, n_vocab=50257, cache=tmp_path / "cache")
    assert "90 documents (8,910 tokens) for training" in data.notes[0]
    assert "10 documents (990 tokens) for evaluation" in data.notes[0]


def test_the_vocabulary_of_characters_is_known_from_meta_pkl(tmp_path):
    folder = tmp_path / "shakespeare_char"
    for name, size in (("train", 5000), ("val", 500)):
        nanogpt(folder / f"{name}.bin", np.random.default_rng(1).integers(0, 65, size))
    with open(folder / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": 65, "itos": {i: chr(i) for i in range(65)}, "stoi": {}}, file)
    config = InputConfig(input="packed", data_path=str(folder))
    data = open_data(config, n_ctx=16, n_vocab=66, cache=tmp_path / "cache")
    assert any("one of 65 ids, as meta.pkl says" in note for note in data.notes)
    fix = 'cannot generate; to generate, train on the text itself: "input": "text", "n_vocab": 257'
    assert any(note.endswith(fix) for note in data.notes)
    with pytest.raises(UserError, match=r"nanoGPT's meta\.pkl.* have none: to generate, train on their text"):
        text_input.encoder_path(config, n_vocab=66, cache=tmp_path / "cache")
    with pytest.raises(UserError, match=r"n_vocab is 65; meta\.pkl has a vocabulary of 65.*set n_vocab to 66"):
        open_data(config, n_ctx=16, n_vocab=65, cache=tmp_path / "cache")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise AssertionError('a pickle was carried out')",)


def test_a_pickle_is_never_carried_out(tmp_path):
    nanogpt(tmp_path / "train.bin", ids(10))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 7, "trap": Trap()}))
    assert token_bins.vocabulary_size(tmp_path / "train.bin") == 7
    (tmp_path / "meta.pkl").write_bytes(b"no pickle")
    with pytest.raises(UserError, match=r"meta\.pkl: not nanoGPT's meta\.pkl, or damaged"):
        token_bins.vocabulary_size(tmp_path / "train.bin")


def test_what_is_cut_off_or_something_else_is_refused(tmp_path):
    found = ids(100)
    path = llm_c(tmp_path / "a.bin", found)
    for data, message in [
        (path.read_bytes()[:-2], "has 1222 bytes, but 1224 by its header of 100 ids"),
        (found.astype(np.uint16).tobytes()[:-1], "199 bytes, which are no ids of two bytes"),
        (b"PK\x03\x04" + bytes(90), "weights or a packed file, no token ids"),
        (np.array([20240522, 1, 3], np.int32).tobytes() + bytes(2000), "examples for an evaluation"),
    ]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            open_array(path, Ends(END))
    path = megatron(tmp_path / "b.bin", [found, found])
    for place in range(0, 40, 3):
        data = bytearray(path.with_suffix(".idx").read_bytes())
        data[place] ^= 0x10
        index = tmp_path / "c.idx"
        index.write_bytes(data)
        (tmp_path / "c.bin").write_bytes(path.read_bytes())
        with pytest.raises(UserError, match=r"c\.idx: not Megatron's index of c\.bin, or damaged"):
            open_array(tmp_path / "c.bin", Ends(END))
