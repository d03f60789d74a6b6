"""--show_batch: the documents reported for a window contain the tokens of that window."""

import re

import jax
import numpy as np
import pytest
from conftest import one_device
from helpers.main_runs import call, options, write_corpus
from helpers.runs import losses, records

from estimator.data.chat_packing import ChatTokens, ChatWindows
from estimator.data.mixture import Mixture
from estimator.data.samplers import RandomWindows, StitchedWindows
from estimator.data.segment_ids import Segmented
from estimator.data.token_stream import Documents, PackedDataset
from estimator.errors import UserError
from estimator.shards.tfrecord import ShardWriter, open_shard

END = 99


@pytest.fixture
def documents(tmp_path) -> Documents:
    """Returns documents of two shards: all of the first, where one is cut in half, and three of the second."""
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        with ShardWriter(tmp_path / f"{name}_0.tfrecords") as writer:
            for number in range(9):
                writer.write(b"%d" % number, draw.integers(0, END, draw.integers(0, 12)))
    shards = [open_shard(tmp_path / f"{name}_0.tfrecords") for name in ("a", "b")]
    return Documents(shards, [None, np.array([7, 2, 5])], {0: (0, len(shards[0].tokens(0)) // 2)})


def tokens_at(source, window: int) -> list[int]:
    """Reads the tokens of a window back from the files that its origins name."""
    return [
        token
        for path, document, start, count in source.origins(window)
        for token in open_shard(path).tokens(document, start, start + count).tolist()
    ]


def test_origins_hold_the_tokens_of_windows_of_every_kind(documents):
    common = {"n_ctx": 10, "end_of_text": END, "seed": 3}
    sources = [
        PackedDataset(documents, **common),
        RandomWindows(documents, **common),
        StitchedWindows(documents, stitch=3, **common),
    ]
    sources += [Mixture(sources, [1, 2, 1], seed=0), Segmented(sources[0], end_of_text=END)]
    for source in sources:
        for window in (0, 1, 7, 1000):
            expected = source.batch([window])["tokens"][0]
            assert tokens_at(source, window) == [token for token in expected.tolist() if token != END]


def test_origins_of_conversations(tmp_path):
    ids = ChatTokens(end_of_text=0, system=1, user=2, assistant=3, end=4)
    with ShardWriter(tmp_path / "chat_0.tfrecords") as writer:
        for number in range(5, 12):
            turn = [2, *[number] * number, 4, 3, *[number] * 3, 4]
            writer.write(b"%d" % number, np.array(turn * (3 if number == 9 else 1)))  # one is longer than a window
    documents = Documents([open_shard(tmp_path / "chat_0.tfrecords")])
    source = ChatWindows(documents, n_ctx=40, tokens=ids, loss="replies", seed=1)
    for window in range(len(source)):
        expected = source.batch([window])["tokens"][0]
        assert tokens_at(source, window) == [token for token in expected.tolist() if token]


def test_the_command_prints_the_documents_and_the_text_of_a_step(tmp_path, monkeypatch, capsys):
    (tmp_path / "texts").mkdir()
    arguments = options(write_corpus(tmp_path / "texts"), tmp_path, train_batch_size=2, n_ctx=16)
    call(monkeypatch, [*arguments, "--show_batch", "3"])
    by_step = capsys.readouterr().out.partition("window")
    by_step = "".join(by_step[1:])
    assert [line for line in by_step.splitlines() if line.startswith("window")] == ["window 4", "window 5"]
    assert ".tfrecords, document " in by_step
    corpus = [path.read_text() for path in (tmp_path / "texts").iterdir()]
    for window in re.split(r"window \d+\n(?:  /.*\n)+", by_step)[1:]:
        for part in window[:-1].split("<|endoftext|>"):
            assert any(part in text for text in corpus)
    call(monkeypatch, [*arguments, "--show_batch", "4:6"])
    assert capsys.readouterr().out == by_step
    for wrong in ("0", "5:5", "-1", "x"):
        with pytest.raises(UserError, match=r"--show_batch .*: write a step"):
            call(monkeypatch, [*arguments, f"--show_batch={wrong}"])


def test_steps_to_come_are_shown_with_the_batches_that_they_will_have(tmp_path, monkeypatch, capsys):
    """A run of four steps of two windows continues with three: the losses of both runs tell which windows these are."""
    devices = one_device()
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    (tmp_path / "texts").mkdir()
    corpus = write_corpus(tmp_path / "texts")
    keys = {"train_batch_size": 2, "max_steps": 4, "lr": 0, "warmup_steps": 0, "eval_steps": 0}
    call(monkeypatch, options(corpus, tmp_path, **keys))
    keys |= {"train_batch_size": 3, "max_steps": 5}
    for step, windows in (5, [8, 9, 10]), (6, [11, 12, 13]), (4, [6, 7]):
        capsys.readouterr()
        call(monkeypatch, [*options(corpus, tmp_path, **keys), f"--show_batch={step}"])
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("window")] == [f"window {window}" for window in windows]
    call(monkeypatch, options(corpus, tmp_path, **keys))
    keys |= {"model_path": str(tmp_path / "ones"), "train_batch_size": 1, "max_steps": 11}
    call(monkeypatch, options(corpus, tmp_path, **keys))
    (later,) = (record["loss"] for record in records(tmp_path / "run") if record["step"] == 5)
    assert later == pytest.approx(np.mean(losses(tmp_path / "ones")[8:]), rel=1e-5)
