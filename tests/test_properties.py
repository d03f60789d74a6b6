"""Property-based round-trip tests with hypothesis: file formats, the tokenizer, and the configuration."""

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import config
from estimator.data.config import InputConfig
from estimator.interop import safetensors_io
from estimator.shards.npy_files import Ends
from estimator.shards.numpy_shards import NpyWriter, NpzWriter, open_array
from estimator.shards.tfrecord import ShardWriter, index_path, open_shard
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.training import progress
from estimator.training.run_config import RunConfig

# Deterministic examples, without deadlines or a database of failures.
few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
IDS = st.one_of(st.integers(0, 300), st.integers(0, 2**31 - 1))
DOCUMENTS = st.lists(st.tuples(st.binary(max_size=20), st.lists(IDS, max_size=40)), max_size=8)
END = 7


@few
@given(DOCUMENTS, st.booleans(), st.data())
def test_a_shard_gives_its_documents_and_parts_of_them(documents, is_indexed_again, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a_0.tfrecords"
        with ShardWriter(path, tokenizer="0" * 64) as writer:
            for name, ids in documents:
                writer.write(name, np.array(ids, np.int64))
        if is_indexed_again:
            index_path(path).unlink()
        shard = open_shard(path)
        assert [(name, ids.tolist()) for name, ids in map(shard.record, range(len(shard)))] == documents
        assert shard.max_id == max(itertools.chain.from_iterable(ids for _, ids in documents), default=-1)
        for number, (_, ids) in enumerate(documents):
            start, stop = data.draw(st.integers(0, 41)), data.draw(st.integers(0, 41))
            assert shard.tokens(number, start, stop).tolist() == ids[start:stop]


@few
@given(
    st.lists(st.lists(st.integers(8, 300), min_size=1, max_size=40), max_size=6),
    st.sampled_from([NpyWriter, NpzWriter]),
)
def test_an_array_gives_its_documents(documents, writer):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.npy" if writer is NpyWriter else "a.npz")
        with writer(path, end_of_text=END, n_vocab=301) as out:
            for ids in documents:
                out.write(b"", np.array(ids))
        shard = open_array(path, Ends(END))
        assert [shard.tokens(number).tolist() for number in range(len(shard))] == documents


ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    max_size=5,
)


@few
@given(ARRAYS, st.integers(0, 2**32 - 1))
def test_safetensors_are_those_that_the_library_reads(shapes, seed):
    draw = np.random.default_rng(seed)
    arrays = {name: draw.integers(0, 2**32, shape, np.uint32).view(np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        safetensors_io.write(path, shapes, arrays.__getitem__, dtype="F32", metadata={"format": "pt"})
        for read in (safetensors_io.SafeTensors([path]), safetensors.numpy.load_file(path)):
            assert {name: (read[name].shape, read[name].tobytes()) for name in read} == {
                name: (array.shape, array.tobytes()) for name, array in arrays.items()
            }


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> tokenizers.Tokenizer:
    folder = tmp_path_factory.mktemp("encoder")
    train_byte_bpe(["the quick brown fox, the lazy dog \u00e9t\u00e9 " * 20], n_vocab=300, out=folder)
    return tokenizers.load(folder)


@few
@given(text=st.text(st.characters(codec="utf-8")))
def test_a_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert all(0 <= each < tokenizer.n_vocab for each in ids)


PATHS = st.text("abc/_ .\u00e9", min_size=1, max_size=12).filter(lambda path: path.strip() == path)
POSITIVE = st.integers(1, 10**6)
KEYS = st.fixed_dictionaries(
    {"model_path": PATHS, "train_batch_size": st.integers(1, 2**20), "max_steps": POSITIVE, "data_path": PATHS},
    optional={
        "eval_steps": st.none() | POSITIVE, "save_minutes": st.none() | st.floats(0.01, 1e6),
        "seed": st.integers(0, 2**32 - 1), "keep_best": st.booleans(), "on_bad_step": st.sampled_from(["skip", "stop"]),
        "max_loss_rise": st.none() | st.floats(0.01, 1e6), "mesh": st.none() | st.just({"data": -1, "fsdp": 2}),
    },
)  # fmt: skip


@few
@given(KEYS)
def test_a_configuration_means_the_same_after_it_was_written(values):
    sections = config.parse_sections(values, [RunConfig, InputConfig], source="x.json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config.resolved(sections)), encoding="utf-8")
        again = config.parse_sections(config.read(path), [RunConfig, InputConfig], source=path)
    assert again == sections


@few
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=5))
def test_windows_and_tokens_of_a_run_are_the_sums_of_its_steps(starts):
    with tempfile.TemporaryDirectory() as folder:
        step = windows = tokens = 0
        for steps, batch, length in starts:
            sizes = {"batch_size": batch, "tokens_per_window": length}
            spans = progress.resume(folder, step, **sizes, data={"data_seed": 0}, old={})
            progress.write(folder, spans)
            assert (spans[-1].windows_at(step), spans[-1].tokens_at(step)) == (windows, tokens)
            step, windows, tokens = step + steps, windows + steps * batch, tokens + steps * batch * length
        assert progress.span_of(folder, step).tokens_at(step) == tokens
