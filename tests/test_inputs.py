"""Input functions: complete epochs, identical batches for any number of hosts, and separate evaluation text."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pydantic import ValidationError

from estimator import config as configuration
from estimator import hashing
from estimator.corpus.build.executors import Executor
from estimator.corpus.build.pipeline import encode
from estimator.corpus.build.plan import Corpus, Options
from estimator.data import input_groups, splits, stages, text_input, token_stream
from estimator.data.batches import Batches, EvaluationBatches
from estimator.data.config import InputConfig
from estimator.data.mixture import Mixture, block_counts
from estimator.data.samplers import StitchedWindows
from estimator.data.text_input import encoder_path
from estimator.data.token_stream import Dataset, Documents, EvaluationWindows, PackedDataset, TokenStream, WindowSpan
from estimator.errors import UserError
from estimator.shards import discovery
from estimator.shards.shard import decode
from estimator.shards.tfrecord import ShardWriter, index_path, open_shard
from estimator.tokenization.tokenizer import byte_level_tokenizer, load, with_special_tokens
from inputs import open_data

END = 1000
PINNED_PACKED = [[76, 77, 78, 79, 80], [10, 11, 12, 13, 14], [52, 53, 54, 55, 56]]
PINNED_STITCHED = [[41, 42, 1000, 110, 111], [53, 54, 55, 56, 57], [66, 67, 68, 69, 70]]


def write(path, documents, *, tokenizer=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path, tokenizer=tokenizer) as writer:
        for number, ids in enumerate(documents):
            writer.write(b"%d" % number, np.array(ids, np.int32))
    return path


def distinct_documents(lengths):
    """Gives every token a distinct number, so that it can be tracked."""
    ends = np.cumsum(lengths)
    return [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


@pytest.fixture
def documents(tmp_path):
    lengths = [7, 0, 23, 1, 12, 40, 3, 19, 5, 11]
    every = distinct_documents(lengths)
    paths = [write(tmp_path / "a_0.tfrecords", every[:6]), write(tmp_path / "a_1.tfrecords", every[6:])]
    return Documents([open_shard(path) for path in paths]), every


def setup(folder, *, n_ctx=16, n_vocab=END + 1, **options):
    """Opens the data of a directory of shards whose end-of-text is END, the last id of the vocabulary."""
    return open_data(
        InputConfig(data_path=str(folder), **options), n_ctx=n_ctx, n_vocab=n_vocab, cache=folder / "cache"
    )


@pytest.fixture(autouse=True)
def _end_of_text(monkeypatch):
    monkeypatch.setattr(stages, "GPT2_END_OF_TEXT", END)


def random_documents(count, *, longest=50, seed=0, vocabulary=END):
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, random.integers(1, longest)).tolist() for _ in range(count)]


# Shuffling.


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 70_000])
def test_a_shuffle_has_every_index_once_and_is_found_one_by_one(size):
    order = hashing.shuffled(size, key=99)
    assert sorted(order.tolist()) == list(range(size))
    some = range(0, size, max(1, size // 50))
    assert [hashing.permute(i, size, key=99) for i in some] == [order[i] for i in some]


def test_all_shuffles_are_equally_likely():
    count = 6000
    seen = Counter(tuple(hashing.permute(i, 4, key=hashing.key_of(3, k)) for i in range(4)) for k in range(count))
    chi_squared = sum((seen[order] - count / 24) ** 2 / (count / 24) for order in permutations(range(4)))
    assert chi_squared < 50  # 23 degrees of freedom: p = 0.001 at 49.7


def test_orders_of_neighbouring_seeds_have_nothing_in_common():
    first, second = (
        hashing.shuffled(10_000, key=hashing.key_of(0, 0, 0)),
        hashing.shuffled(10_000, key=hashing.key_of(1, 0, 0)),
    )
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.05


# Packed windows.


def test_packed_predicts_every_token_once_in_an_epoch(documents):
    documents, every = documents
    n_ctx, total = 9, sum(map(len, every)) + len(every)
    source = PackedDataset(documents, n_ctx=n_ctx, end_of_text=END, seed=5)
    assert source.windows_per_epoch == total // n_ctx
    left_out = set()
    for epoch in range(20):
        rows = [source[epoch * source.windows_per_epoch + i] for i in range(source.windows_per_epoch)]
        targets = Counter(token for row in rows for token in row[1:].tolist())
        assert all(row.shape == (n_ctx + 1,) and row.dtype == np.int32 for row in rows)
        assert max(count for token, count in targets.items() if token != END) == 1
        assert targets.total() == total - total % n_ctx
        left_out |= set(range(sum(map(len, every)))) - set(targets)
    assert len(left_out) > 3 * (total % n_ctx)  # different tokens in each epoch


def test_packed_windows_are_those_of_the_joined_documents(documents):
    documents, every = documents
    source = PackedDataset(documents, n_ctx=9, end_of_text=END, seed=5)
    for epoch in range(3):
        order = hashing.shuffled(len(every), key=hashing.key_of(5, 0, epoch))
        joined = [token for number in order for token in [*every[number], END]]
        rotation = hashing.key_of(5, 2, epoch) % len(joined)
        circle = joined[rotation:] + joined[:rotation]
        circle += circle[:10]
        expected = [circle[i * 9 : i * 9 + 10] for i in range(source.windows_per_epoch)]
        rows = [source[epoch * source.windows_per_epoch + i].tolist() for i in range(source.windows_per_epoch)]
        assert sorted(rows) == sorted(expected)
        assert rows != expected  # in a different order


def test_any_window_is_found_at_once_in_any_order(documents):
    source = PackedDataset(documents[0], n_ctx=9, end_of_text=END, seed=5)
    indices = [3, 1000, 0, 12_345_678_901, 17, 3]
    alone = [PackedDataset(documents[0], n_ctx=9, end_of_text=END, seed=5)[i].tolist() for i in indices]
    assert [source[i].tolist() for i in indices] == alone


def test_the_order_never_changes(documents):
    """A change of these numbers breaks the resuming of existing runs, so it has to be announced."""
    source = PackedDataset(documents[0], n_ctx=4, end_of_text=END, seed=1)
    assert [source[i].tolist() for i in (0, 1, 100)] == PINNED_PACKED
    source = StitchedWindows(documents[0], stitch=3, n_ctx=4, end_of_text=END, seed=1)
    assert [source[i].tolist() for i in (0, 1, 100)] == PINNED_STITCHED
    assert hashing.splitmix64(0) == 0xE220A8397B1DCDAF  # the first output of the reference generator


def test_other_seeds_give_other_orders(documents):
    rows = {
        tuple(PackedDataset(documents[0], n_ctx=9, end_of_text=END, seed=seed)[0].tolist()) for seed in range(-3, 8)
    }
    assert len(rows) > 8


# Stitched windows.


def naive_stitch(every, order, group, *, stitch, size):
    """Joins the texts of a group as the 2019 script did, and adds more texts if they are too short for a window."""
    count = stitch
    while True:
        numbers = [order[(group * stitch + i) % len(order)] for i in range(count)]
        text = [token for i, number in enumerate(numbers) for token in ([END] if i else []) + every[number]]
        if len(text) >= size:
            return text
        count += 1


@pytest.mark.parametrize(("stitch", "n_ctx"), [(1, 9), (2, 30), (3, 9), (10, 100), (42, 120)])
def test_stitched_windows_are_those_of_the_joined_documents(documents, stitch, n_ctx):
    documents, every = documents
    source = StitchedWindows(documents, stitch=stitch, n_ctx=n_ctx, end_of_text=END, seed=2)
    stitch = min(stitch, len(every))
    assert source.windows_per_epoch == len(every) // stitch
    for epoch in range(5):
        order = hashing.shuffled(len(every), key=hashing.key_of(2, 0, epoch)).tolist()
        for group in range(source.windows_per_epoch):
            text = naive_stitch(every, order, group, stitch=stitch, size=n_ctx + 1)
            start = hashing.key_of(2, 3, epoch, group) % (len(text) - n_ctx)
            row = source[epoch * source.windows_per_epoch + group].tolist()
            assert row == text[start : start + n_ctx + 1]


def test_every_start_is_drawn_the_last_one_too(tmp_path):
    documents = Documents([open_shard(write(tmp_path / "a_0.tfrecords", distinct_documents([6, 6])))])
    source = StitchedWindows(documents, stitch=2, n_ctx=9, end_of_text=END, seed=0)
    rows = Counter(tuple(source[i].tolist()) for i in range(3000))
    assert len(rows) == 2 * 4  # two orders, 13 - 10 + 1 starts
    assert min(rows.values()) > 250
    exact = StitchedWindows(documents, stitch=2, n_ctx=12, end_of_text=END, seed=0)
    assert len({tuple(exact[i].tolist()) for i in range(50)}) == 2  # the whole text is one window


# Mixtures.


class Counted(Dataset):
    def __init__(self, name, windows_per_epoch):
        self.name, self.windows_per_epoch = name, windows_per_epoch

    def place(self, index):
        return self.name, index


@pytest.mark.parametrize(
    ("weights", "counts"), [([0.3, 0.7], [3, 7]), ([1, 1], [1, 1]), ([2, 6, 4], [1, 3, 2]), ([0.7], [1])]
)
def test_a_mix_is_exact_and_takes_each_source_in_turn(weights, counts):
    mixed = Mixture([Counted(i, 10) for i in range(len(weights))], weights, seed=3)
    block = sum(counts)
    rows = [mixed.place(i) for i in range(20 * block)]
    for number in range(20):
        here = Counter(source for source, _ in rows[number * block : (number + 1) * block])
        assert [here[i] for i in range(len(weights))] == counts
    for source, count in enumerate(counts):
        assert sorted(index for of, index in rows if of == source) == list(range(20 * count))
    assert mixed.place(7) == rows[7]


def test_weights_that_are_no_small_fractions_are_met_to_a_thousandth():
    counts = block_counts([1 / 3, 1 / math.pi, math.e])
    assert np.allclose(
        np.array(counts) / sum(counts),
        np.array([1 / 3, 1 / math.pi, math.e]) / (1 / 3 + 1 / math.pi + math.e),
        atol=1e-3,
    )
    with pytest.raises(UserError, match="weights"):
        block_counts([1, 1e-9])


def test_an_epoch_of_a_mix_shows_each_source_whole():
    mixed = Mixture([Counted("short", 100), Counted("long", 20)], [0.3, 0.7], seed=0)
    rows = Counter(mixed.place(i)[0] for i in range(mixed.windows_per_epoch))
    assert rows["short"] >= 100
    assert rows["long"] >= 20
    assert mixed.windows_per_epoch == 340


# Evaluation.


@pytest.mark.parametrize("n_ctx", [4, 9, 63, 200])
def test_evaluation_windows_predict_every_token_but_the_first_once_in_order(documents, n_ctx):
    documents, every = documents
    joined = [token for ids in every for token in [*ids, END]]
    source = EvaluationWindows(documents, n_ctx=n_ctx, end_of_text=END)
    targets, contexts = [], []
    for number in range(len(source)):
        window = source[number]
        assert window.tokens.shape == (n_ctx + 1,)
        contexts += window.tokens[: window.targets].tolist()
        targets += window.tokens[1 : window.targets + 1].tolist()
        assert (window.tokens[window.targets + 1 :] == END).all()
    assert (contexts, targets) == (joined[:-1], joined[1:])


def test_an_evaluation_is_the_same_windows_spread_evenly(tmp_path):
    write(tmp_path / "a_0.tfrecords", random_documents(300))
    data = setup(tmp_path, input="packed", eval_split=0.3)
    total = len(data.evaluation)
    few = EvaluationBatches(data, batch_size=4, steps=3)
    assert len(few.windows) == 12 == len(set(few.windows))
    assert set(np.diff([*few.windows, total])) <= {total // 12, total // 12 + 1}
    everything = EvaluationBatches(data, batch_size=4, steps=None)
    assert everything.windows == list(range(total)) == EvaluationBatches(data, batch_size=4, steps=10**6).windows
    batches = list(everything.batches())
    assert {(b["tokens"].shape, b["weights"].shape) for b in batches} == {((4, 17), (4, 16))}
    assert sum(b["weights"].sum() for b in batches) == sum(data.evaluation[i].targets for i in range(total))
    for again, batch in zip(everything.batches(), batches, strict=True):
        assert all(np.array_equal(again[key], batch[key]) for key in batch)


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_evaluate_the_windows_of_one_host_each_once(tmp_path, hosts):
    write(tmp_path / "a_0.tfrecords", random_documents(300))
    data = setup(tmp_path, input="packed", eval_split=0.3)
    parts = [EvaluationBatches(data, batch_size=5, steps=3, host_index=i, host_count=hosts) for i in range(hosts)]
    batches = [batch for together in zip(*(part.batches() for part in parts), strict=True) for batch in together]
    found = np.concatenate([batch["tokens"][batch["weights"].any(axis=1)] for batch in batches])
    alone = np.concatenate([batch["tokens"] for batch in EvaluationBatches(data, batch_size=5, steps=3).batches()])
    np.testing.assert_array_equal(found, alone)


def test_bits_per_byte_counts_the_bytes_of_the_evaluated_tokens(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.save(tmp_path / "encoder")
    texts = ["The quick brown fox.", "h\u00e9llo " * 30, "\u65e5\u672c" * 20, "abc" * 40] * 5
    ids = tokenizer.encode_batch([f"{i} {text}" for i, text in enumerate(texts)])
    write(tmp_path / "a_0.tfrecords", ids, tokenizer=tokenizer.digest)
    data = setup(tmp_path, input="packed", eval_split=0.4, encoder_path=str(tmp_path / "encoder"), n_vocab=257)
    assert tokenizer.end_of_text == 256
    evaluation = EvaluationBatches(data, batch_size=3, steps=None)
    targets = [
        t for i in evaluation.windows for t in data.evaluation[i].tokens[1 : data.evaluation[i].targets + 1].tolist()
    ]
    text_bytes = len(b"".join(tokenizer.decode_bytes([t]) for t in targets if t != 256))
    measured = evaluation.describe(2.0)
    assert measured["bits_per_byte"] == pytest.approx(2.0 * len(targets) / math.log(2) / text_bytes, rel=1e-12)
    assert measured["perplexity"] == pytest.approx(math.exp(2.0))
    assert math.isfinite(evaluation.describe(1e6)["perplexity"])


# Batches.


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_all_hosts_together_have_the_same_batch(documents, hosts):
    source = PackedDataset(documents[0], n_ctx=9, end_of_text=END, seed=5)
    whole = Batches(source, batch_size=8)
    parts = [Batches(source, batch_size=8, host_index=i, host_count=hosts) for i in range(hosts)]
    for step in (0, 1, 77, 10**9):
        joined = np.concatenate([part(step)["tokens"] for part in parts])
        assert np.array_equal(whole(step)["tokens"], joined)
        assert joined.shape == (8, 10)
    assert np.array_equal(whole(0)["tokens"], [source[i] for i in range(8)])


def test_hosts_share_an_evaluation(tmp_path):
    write(tmp_path / "a_0.tfrecords", random_documents(100))
    data = setup(tmp_path, input="packed", eval_split=0.5)
    whole = list(EvaluationBatches(data, batch_size=4, steps=None).batches())
    parts = [
        list(EvaluationBatches(data, batch_size=4, steps=None, host_index=i, host_count=2).batches()) for i in range(2)
    ]
    for batch, first, second in zip(whole, *parts, strict=True):
        for key in batch:
            assert np.array_equal(batch[key], np.concatenate([first[key], second[key]]))


def test_a_batch_that_hosts_cannot_share_is_refused(documents):
    source = PackedDataset(documents[0], n_ctx=9, end_of_text=END, seed=5)
    with pytest.raises(UserError, match="train_batch_size: 6 is no multiple of the 4 processes"):
        Batches(source, batch_size=6, host_count=4)


@pytest.mark.parametrize("name", ["packed", "openwebtext", "openwebtext_long"])
def test_another_process_makes_the_same_batches(tmp_path, name):
    for number in range(3):
        write(tmp_path / f"a_{number}.tfrecords", random_documents(60, seed=number))
    code = (
        "import inputs, pathlib\n"
        "from estimator.data import batches, stages\n"
        "from estimator.data.config import InputConfig\n"
        f"stages.GPT2_END_OF_TEXT = {END}\n"
        f"config = InputConfig(input={name!r}, data_path={str(tmp_path)!r}, data_seed=4)\n"
        f"cache = pathlib.Path({str(tmp_path / 'cache')!r})\n"
        f"data = inputs.open_data(config, n_ctx=16, n_vocab={END + 1}, cache=cache)\n"
        "print(batches.Batches(data.train, batch_size=4)(123)['tokens'].tolist())\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = setup(tmp_path, input=name, data_seed=4)
    assert json.loads(done.stdout) == Batches(data.train, batch_size=4)(123)["tokens"].tolist()


# Selection of documents.


def texts_of(documents):
    return [tuple(decode([documents.span(i, 0, 10**9)])[0].tolist()) for i in range(len(documents))]


@pytest.fixture
def opened(monkeypatch):
    """Returns a function that returns the last split made by open_data."""
    made = []
    for name in ("by_shard", "by_fraction"):
        function = getattr(splits, name)
        monkeypatch.setattr(
            splits, name, lambda *arguments, f=function, **more: made.append(f(*arguments, **more)) or made[-1]
        )
    return lambda: made[-1]


def test_openwebtext_is_divided_by_the_numbers_of_2019(tmp_path, opened):
    for number in range(5):
        write(tmp_path / f"openwebtext-newspaper_{number}.tfrecords", [[number] * 20] * 3)
        write(tmp_path / f"openwebtext-newspaper-long_{number}.tfrecords", [[100 + number] * 40] * 3)
    setup(tmp_path, input="openwebtext")
    assert {text[0] for text in texts_of(opened().training[0])} == {0, 3, 4}
    assert {text[0] for text in texts_of(opened().evaluation)} == {1, 2}
    setup(tmp_path, input="openwebtext_long")
    assert {text[0] for text in texts_of(opened().training[0])} == {100, 103, 104}
    assert {text[0] for text in texts_of(opened().evaluation)} == {101, 102}
    data = setup(tmp_path, input="openwebtext_longbiased")
    assert {text[0] for text in texts_of(opened().evaluation)} == {1, 2, 101, 102}
    long = [set(data.train[i].tolist()) - {END} <= set(range(100, 105)) for i in range(1000)]
    assert [sum(long[i : i + 10]) for i in range(0, 1000, 10)] == [7] * 100


def test_an_input_never_takes_the_other_shards_of_openwebtext(tmp_path):
    write(tmp_path / "openwebtext-newspaper_0.tfrecords", random_documents(20))
    for name in ("openwebtext_long", "openwebtext_longbiased"):
        refused(tmp_path, "needs shards openwebtext-newspaper-long_0.tfrecords, ...; found open", input=name)
    (tmp_path / "openwebtext-newspaper_0.tfrecords").rename(tmp_path / "openwebtext-newspaper-long_0.tfrecords")
    refused(tmp_path, "needs shards openwebtext-newspaper_0.* set input to the other", input="openwebtext")
    write(tmp_path / "own" / "a_0.tfrecords", random_documents(20))
    notes = setup(tmp_path / "own", input="openwebtext_long", eval_split=0.2).notes
    assert notes[1].startswith("no shards are named openwebtext-newspaper-long_*: input openwebtext_long takes all, 2 ")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tfrecords"])
def test_shards_of_another_vocabulary_are_refused_by_what_encode_noted(suffix, tmp_path):
    """Where no index has the digest, the list NAME.json has it."""
    (tmp_path / "lines.txt").write_text("word " * 500)
    byte_level_tokenizer().save(tmp_path / "bytes")
    corpus, options = Corpus("a", (str(tmp_path / "lines.txt"),)), Options(format=suffix[1:].removesuffix("s"))
    encode([corpus], options, encoder=str(tmp_path / "bytes"), out=tmp_path / "made", executor=Executor(workers=1))
    for index in (tmp_path / "made").glob("*.index"):
        index.unlink()
    setup(tmp_path / "made", input="packed", n_vocab=300, encoder_path=str(tmp_path / "bytes"))
    for index in (tmp_path / "made").glob("*.index"):
        index.unlink()
    with_special_tokens(byte_level_tokenizer(), ["<|x|>"]).save(tmp_path / "other")
    match = rf"a_0{suffix} was made with another vocabulary than the one in encoder_path"
    refused(tmp_path / "made", match, input="packed", n_vocab=300, encoder_path=str(tmp_path / "other"))


def test_shards_that_are_not_all_there_are_refused(tmp_path):
    lines = "".join(json.dumps({"text": f"{i} {'word ' * 50}"}) + "\n" for i in range(20))
    (tmp_path / "lines.jsonl").write_text(lines)
    byte_level_tokenizer().save(tmp_path / "bytes")
    corpus, options = Corpus("a", (str(tmp_path / "lines.jsonl"),)), Options(shard_tokens=2000)
    executor = Executor(workers=1)
    (summary,) = encode([corpus], options, encoder=str(tmp_path / "bytes"), out=tmp_path, executor=executor) or []
    made = summary.shards
    assert len(made) == 3
    setup(tmp_path, input="packed", eval_split=[1])
    manifest = (tmp_path / "a.json").read_text()
    facts = json.loads(manifest)
    assert (facts["documents"], facts["tokenizer"]) == (20, byte_level_tokenizer().digest)
    made[2].rename(tmp_path / "elsewhere")
    refused(
        tmp_path,
        f"a_2.tfrecords is missing, one of 3 shards by {tmp_path}/a.json; .*move that list elsewhere",
        input="packed",
        eval_split=[1],
    )
    refused(tmp_path / "a_[01]*", "a_2.tfrecords is missing", input="packed", eval_split=[1])
    (tmp_path / "a.json").write_text(manifest.replace('"documents": 20', '"documents": 21'))
    refused(tmp_path, "a.json is damaged: .*; restore it from a copy", input="packed", eval_split=[1])
    (tmp_path / "a.json").write_text('{"n_ctx": 64}')  # written by another program, so the shards are not validated
    setup(tmp_path, input="packed", eval_split=[1])
    (tmp_path / "a.json").unlink()
    (tmp_path / ".a.partial").mkdir()
    refused(tmp_path, "encode.py was interrupted .*a_.*; run it again", input="packed", eval_split=[1])
    (tmp_path / "a.json").write_text(manifest)
    (tmp_path / "elsewhere").rename(made[2])
    setup(tmp_path, input="packed", eval_split=[1])  # the interrupted encoding had not yet replaced any shards
    with open(made[2], "ab") as file:
        file.write(b"x")
    wrong_size = f"a_2.tfrecords has .* bytes, but .* by {tmp_path}/a.json; .*, or the list"
    refused(tmp_path, wrong_size, input="packed", eval_split=[1])


def test_a_group_without_a_shard_to_train_on_is_named(tmp_path):
    for number, name in enumerate(["openwebtext-newspaper", "openwebtext-newspaper-long"]):
        for shard in range(1 + number, 2 + number):
            write(tmp_path / f"{name}_{shard}.tfrecords", random_documents(20))
    write(tmp_path / "openwebtext-newspaper_0.tfrecords", random_documents(20))
    refused(tmp_path, "openwebtext-newspaper-long_2.tfrecords would only be", input="openwebtext_longbiased")


def test_shards_of_the_2019_script_train_with_every_input(fixtures, tmp_path):
    for path in (fixtures / "tfrecords").glob("*.tfrecords"):
        shutil.copy(path, tmp_path)
    common = {"n_ctx": 1024, "n_vocab": 50257, "cache": tmp_path / "cache"}
    for options in (
        {"input": "openwebtext"},
        {"input": "openwebtext_long"},
        {"input": "packed"},
        {
            "input": "generic_text",
            "dataset": [[["shakespeare_0*", "shakespeare_3.tfrecords"], 1], [["shakespeare_2*"], 3]],
        },
    ):
        data = open_data(InputConfig(data_path=str(tmp_path), **options), **common)
        assert Batches(data.train, batch_size=4)(3)["tokens"].shape == (4, 1025)
        assert len(data.evaluation) > 0
        assert "for training" in data.notes[0]


@pytest.mark.parametrize(
    ("rule", "evaluated"),
    [
        ([0, 3], {0, 3}),
        ("*_2.tfrecords", {2}),
        (["a_1.tfrecords", "a_3*"], {1, 3}),
        ("other/held_0.tfrecords", {9}),
        (None, {8}),
    ],
)
def test_whole_shards_are_evaluated_on_by_number_pattern_or_name(tmp_path, opened, rule, evaluated):
    for number in range(4):
        write(tmp_path / f"a_{number}.tfrecords", [[number] * 20, [number] * 9])
    write(tmp_path / "medieval_7.tfrecords", [[5] * 20])
    write(tmp_path / "a_valid_6.tfrecords", [[8] * 20])
    write(tmp_path / "other" / "held_0.tfrecords", [[9] * 20])
    setup(tmp_path, input="packed", eval_split=rule)
    assert {text[0] for text in texts_of(opened().evaluation)} == evaluated
    assert {text[0] for text in texts_of(opened().training[0])} == {0, 1, 2, 3, 5, 8} - evaluated


@pytest.mark.parametrize(
    ("rule", "fix"),
    [
        ("held_0.tfrecords", "did you mean more/valid/held_0.tfrecords?"),
        ("valid/*", "did you mean more/valid/*?"),
        ("tset", "correct the name"),
    ],
)
def test_data_to_evaluate_on_that_is_deeper_is_suggested(tmp_path, rule, fix):
    write(tmp_path / "a_0.tfrecords", [[1] * 20, [2] * 9])
    write(tmp_path / "more" / "valid" / "held_0.tfrecords", [[9] * 20])
    match = rf"eval_split: {re.escape(rule)} is neither in .*/ \(data_path\) nor in .*; {re.escape(fix)}"
    refused(tmp_path, match, input="packed", eval_split=rule)


def test_a_document_that_is_evaluated_on_is_trained_on_nowhere(tmp_path, opened):
    texts = random_documents(40)
    write(tmp_path / "a_0.tfrecords", texts)
    write(tmp_path / "a_1.tfrecords", [texts[3], [1, 2], texts[5], texts[3]])
    data = setup(tmp_path, input="packed", eval_split=[1])
    assert texts_of(opened().training[0]) == [tuple(text) for i, text in enumerate(texts) if i not in (3, 5)]
    assert "2 training documents left out" in data.notes[1]


def test_a_fraction_is_stable_and_keeps_equal_documents_together(tmp_path, opened):
    texts = random_documents(400)
    write(tmp_path / "a_0.tfrecords", [*texts, *texts[:200]])
    setup(tmp_path, input="packed", eval_split=0.25)
    evaluated, trained = set(texts_of(opened().evaluation)), set(texts_of(opened().training[0]))
    assert not evaluated & trained
    assert evaluated | trained == set(map(tuple, texts))
    assert 70 < len(evaluated) < 130
    assert len(opened().evaluation) + len(opened().training[0]) == 600
    write(tmp_path / "a_1.tfrecords", random_documents(400, seed=1))
    setup(tmp_path, input="packed", eval_split=0.25, data_seed=9)
    assert evaluated <= set(texts_of(opened().evaluation))
    assert trained <= set(texts_of(opened().training[0]))


def test_a_small_fraction_of_few_documents_is_one_of_them(tmp_path, opened):
    write(tmp_path / "a_0.tfrecords", random_documents(5, longest=99))
    setup(tmp_path, input="packed", eval_split=0.0001, n_ctx=4)
    assert (len(opened().evaluation), len(opened().training[0])) == (1, 4)


def test_own_shards_of_openwebtext_are_divided_by_a_fraction(tmp_path, opened):
    """Models of 2019 were evaluated on OpenWebText's own shards; other shards are split by a fraction."""
    for number in range(3):
        write(tmp_path / f"my_{number}.tfrecords", random_documents(200, seed=number))
    setup(tmp_path, input="openwebtext")
    assert 5 <= len(opened().evaluation) <= 60


def test_generic_text_mixes_files_by_weight(tmp_path):
    for number, name in enumerate(["books", "news", "chat"]):
        write(tmp_path / f"{name}_0.tfrecords", [[number, i, *[number] * 30] for i in range(40)])
    dataset = [["books_*.tfrecords", 0.5], [["news_0.tfrecords", "chat_0.tfrecords"], 1.5]]
    data = setup(tmp_path, input="generic_text", dataset=dataset, stitch=1)
    books = [Counter(data.train[i].tolist()).most_common(1)[0][0] == 0 for i in range(400)]
    assert [sum(books[i : i + 4]) for i in range(0, 400, 4)] == [1] * 100
    assert data.train.windows_per_epoch > 100
    fitted = setup(tmp_path, input="generic_text", dataset=dataset, n_ctx=64)  # three documents per window
    assert fitted.train.windows_per_epoch < data.train.windows_per_epoch / 2


def test_a_file_in_several_parts_of_dataset_is_named(tmp_path):
    for number, name in enumerate(["a_0", "a_1", "a_2", "b_0"]):
        write(tmp_path / f"{name}.tfrecords", random_documents(30, seed=number))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "c_0.tfrecords").symlink_to(tmp_path / "b_0.tfrecords")

    def notes(*dataset, **keys):
        found = setup(tmp_path, input="packed", dataset=list(dataset), **{"eval_split": 0.1, **keys}).notes
        return [note for note in found if note.startswith("dataset: ")]

    a = [["a_*.tfrecords"], 3]
    assert notes(a, [["b_*.tfrecords"], 1]) == notes([["a_*.tfrecords", "a_0.tfrecords"], 1]) == []
    (note,) = notes(a, [["a_0.tfrecords"], 1])
    assert "a_0.tfrecords is in the parts 1 and 2: each part takes its share" in note
    (note,) = notes(["b_0.tfrecords", 1], a, [["a_[01]*", "copy/c_0.tfrecords"], 1])
    assert "b_0.tfrecords is in the parts 1 and 3, and 2 others in several:" in note
    assert notes(a, [["a_0.tfrecords", "b_0.tfrecords"], 1], eval_split=["a_0.tfrecords"]) == []  # it trains nothing


def test_a_shard_that_has_several_names_by_links_is_named(tmp_path):
    write(tmp_path / "a" / "a_0.tfrecords", random_documents(30, seed=0))
    once = setup(tmp_path / "a", input="packed")
    assert not any("one file" in note for note in once.notes)
    (tmp_path / "b").mkdir()
    for name in ("a_0", "b_0"):
        (tmp_path / "b" / f"{name}.tfrecords").symlink_to(tmp_path / "a" / "a_0.tfrecords")
    linked = setup(tmp_path / "b", input="packed")
    (note,) = (note for note in linked.notes if "one file" in note)
    names = " and ".join(str(tmp_path / "b" / f"{name}.tfrecords") for name in ("a_0", "b_0"))
    assert note == f"{names} are one file: it is trained on under each name; keep one, unless this is meant"
    assert linked.train.windows_per_epoch == pytest.approx(2 * once.train.windows_per_epoch, abs=1)
    assert not any("dataset: " in note for note in linked.notes)


def test_the_order_is_another_exactly_where_the_windows_are(tmp_path):
    for seed, name in enumerate(("a_0", "a_1", "b_0", "valid_0", "valid_1")):
        write(tmp_path / "data" / f"{name}.tfrecords", random_documents(30, seed=seed))
    shutil.copytree(tmp_path / "data", tmp_path / "moved")

    def opened(*groups, folder="data", split="valid_0*", **options):
        data = setup(tmp_path / folder, input="packed", dataset=list(groups), eval_split=split, **options)
        return data, data.train.batch(range(200))["tokens"].tobytes()

    a, b = [["a_*"], 3], [["b_*"], 1]
    first, windows = opened(a, b)
    variants = [
        opened(a, b),
        opened([["a_*"], 6], [["b_*"], 2]),
        opened(a, b, folder="moved"),
        opened(a, b, split="valid_1*"),
        opened([["a_*"], 1], [["b_*"], 3]),
        opened(b, a),
        opened([["a_0*"], 3], [["a_1*", "b_*"], 1]),
        opened(a, b, split="a_1*"),
        opened(a, b, split=0.3),
        opened(a, [["b_*"], 1], [["valid_1*"], 1]),
    ]
    assert [found == windows for _, found in variants] == [True] * 4 + [False] * 6
    assert [data.order_digest() == first.order_digest() for data, _ in variants] == [True] * 4 + [False] * 6
    # A document that is also evaluated on leaves the training documents.
    copies = open_shard(tmp_path / "data" / "a_0.tfrecords")
    more = [*random_documents(30, seed=3), copies.tokens(0).tolist()]
    write(tmp_path / "moved" / "valid_0.tfrecords", more)
    again, found = opened(a, b, folder="moved")
    assert found != windows
    assert again.order_digest() != first.order_digest()


def test_files_of_dataset_may_be_named_from_the_working_folder(tmp_path, monkeypatch):
    """ConnorJL/GPT2's configurations give both data_path and patterns relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(tmp_path / "my" / f"my_{number}.tfrecords", random_documents(40, seed=number))
    options = {"input": "generic_text", "stitch": 1, "eval_split": 0}
    sizes = {
        setup(Path("my"), dataset=[[[pattern], 1.0]], **options).train.windows_per_epoch
        for pattern in ("my_*.tfrecords", "my/my_*.tfrecords", str(tmp_path / "my" / "my_*.tfrecords"))
    }
    assert len(sizes) == 1
    (tmp_path / "my" / "my").mkdir()
    write(tmp_path / "my" / "my" / "my_0.tfrecords", random_documents(5, seed=9))
    inside = setup(Path("my"), dataset=[[["my/my_*.tfrecords"], 1.0]], **options)  # data_path takes precedence
    assert inside.train.windows_per_epoch < min(sizes)
    with pytest.raises(UserError, match="my/other"):
        setup(Path("my"), dataset=[[["my/other_*.tfrecords"], 1.0]], **options)


def test_a_name_that_exists_in_one_place_is_no_pattern_in_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "a1.npy").touch()
    (tmp_path / "a[1].npy").touch()
    config = InputConfig(data_path="my")
    assert input_groups.joined(config, "eval_split", ["a[1].npy", "a[1-3].npy"]) == ["a[1].npy", "my/a[1-3].npy"]


def test_text_of_a_run_in_a_read_only_place_is_prepared_in_the_users_cache(tmp_path, monkeypatch):
    """For example, when evaluating a run that was moved to a read-only disk."""
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "mine"))
    config, there = InputConfig(input="text", data_path=str(tmp_path / "texts")), tmp_path / "there" / "cache"
    expected = text_input.folder(config, n_vocab=300, cache=there)
    assert expected.parent == there
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert text_input.folder(config, n_vocab=300, cache=there) == tmp_path / "mine" / expected.name
    expected.mkdir(parents=True)
    assert text_input.folder(config, n_vocab=300, cache=there) == expected  # existing prepared text can still be read


def test_text_is_prepared_once_for_each_vocabulary(tmp_path, capfd):
    (tmp_path / "text").mkdir()
    for number in range(30):
        words = " ".join(f"word{i * number % 17}" for i in range(60))
        (tmp_path / "text" / f"{number}.txt").write_text(f"{number}. {words}")
    data = setup(tmp_path / "text", input="text", n_vocab=300)
    encoder = encoder_path(
        InputConfig(input="text", data_path=str(tmp_path / "text")), n_vocab=300, cache=tmp_path / "text" / "cache"
    )
    assert data.tokenizer == load(encoder).digest
    assert "bits_per_byte" in EvaluationBatches(data, batch_size=2, steps=2).describe(1.0)
    setup(tmp_path / "text", input="text", n_vocab=280)
    capfd.readouterr()
    again = setup(tmp_path / "text", input="text", n_vocab=300)
    assert capfd.readouterr().out == ""
    assert np.array_equal(again.train[5], data.train[5])


def write_words(folder, words):
    folder.mkdir(exist_ok=True)
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"{number}. " + f"{words} " * 20)
    return folder


def open_text(folder, cache, *, vocabulary=None):
    config = InputConfig(input="text", data_path=str(folder))
    return open_data(config, n_ctx=16, n_vocab=300, cache=cache, vocabulary=vocabulary)


def test_a_run_keeps_its_vocabulary_when_its_text_changes_and_new_runs_learn_theirs(tmp_path, capfd):
    texts, cache = write_words(tmp_path / "text", "the quick brown fox"), tmp_path / "cache"
    before = open_text(texts, cache)
    load(before.encoder).save(tmp_path / "own")
    write_words(texts, "jumps over the lazy dog")
    capfd.readouterr()
    after = open_text(texts, cache, vocabulary=tmp_path / "own")
    assert f"keeping the run's vocabulary ({tmp_path / 'own'}); a run in another" in capfd.readouterr().out
    assert before.tokenizer == after.tokenizer
    assert before.content_digest() != after.content_digest()
    new = open_text(texts, cache)
    assert "learning a vocabulary of 300" in capfd.readouterr().out
    assert new.tokenizer == open_text(texts, tmp_path / "clean").tokenizer != before.tokenizer
    capfd.readouterr()
    for vocabulary, tokenizer in ((tmp_path / "own", before.tokenizer), (None, new.tokenizer)):
        open_text(texts, cache, vocabulary=vocabulary)  # the first moves to a folder of its own, once
        capfd.readouterr()
        assert open_text(texts, cache, vocabulary=vocabulary).tokenizer == tokenizer
        assert capfd.readouterr().out == ""


def test_a_run_that_continues_with_another_text_does_not_give_new_runs_its_vocabulary(tmp_path):
    first, second = write_words(tmp_path / "a", "the quick brown fox"), write_words(tmp_path / "b", "jumps over dogs")
    begun = open_text(first, tmp_path / "cache")
    continued = open_text(second, tmp_path / "cache", vocabulary=Path(begun.encoder))
    new = open_text(second, tmp_path / "cache")
    assert continued.tokenizer == begun.tokenizer != new.tokenizer
    assert new.tokenizer == open_text(second, tmp_path / "clean").tokenizer


@pytest.mark.parametrize("is_of_this_text", [True, False])
def test_new_runs_learn_again_where_an_older_version_kept_no_record_of_the_text(is_of_this_text, tmp_path, capfd):
    texts, cache = write_words(tmp_path / "text", "the quick brown fox"), tmp_path / "cache"
    right = open_text(texts, cache)
    (folder,) = cache.glob("text-*")
    (folder / "learned.json").unlink()
    if not is_of_this_text:
        byte_level_tokenizer().save(folder / "encoder")
    older = load(folder / "encoder")
    older.save(tmp_path / "own")
    shards = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    capfd.readouterr()
    if is_of_this_text:
        open_text(texts, cache, vocabulary=tmp_path / "own")  # of a run that has begun: as it is
        assert capfd.readouterr().out == ""
    assert open_text(texts, cache).tokenizer == right.tokenizer
    assert "nothing says which text" in capfd.readouterr().out
    assert is_of_this_text == (shards == {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()})
    # Runs of older versions have no copy of their vocabulary: the cache keeps it.
    assert older.digest in {load(path).digest for path in cache.glob("text-*/encoder")}


def test_files_of_text_can_be_held_out(tmp_path, opened):
    (tmp_path / "text").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "text" / f"{name}.txt").write_text(f"{name} " * 200)
    data = setup(tmp_path / "text", input="text", n_vocab=270, eval_split="valid.txt")
    assert len(opened().evaluation) == 1
    assert len(opened().training[0]) == 1
    assert texts_of(opened().evaluation) != texts_of(opened().training[0])
    assert data.tokenizer is not None


# Invalid data.


def refused(folder, match, **options):
    with pytest.raises(UserError, match=match):
        setup(folder, **options)


@pytest.mark.parametrize("n_vocab", [257, 300])  # without and with merges to learn
@pytest.mark.parametrize(
    ("contents", "options", "reason"),
    [
        (b"", {}, "a.txt: nothing but blanks; give files with text in them"),
        (b" \n\n", {}, "a.txt: nothing but blanks; give files"),
        ("caf\u00e9".encode("latin-1"), {"on_error": "skip"}, r"a.txt; left out: 1 not text; give .* \(on_error\)"),
    ],
)
def test_files_without_text_are_named_with_their_key_and_the_reason(contents, options, reason, n_vocab, tmp_path):
    (tmp_path / "a.txt").write_bytes(contents)
    keys = {"input": "text", "n_vocab": n_vocab} | options
    refused(tmp_path, f"^data_path: no text in .*{reason}", **keys)
    if not contents.isspace():
        with pytest.raises(UserError, match=f"^data_path: no text in .*{reason}"):
            text_input.look(InputConfig(input="text", data_path=str(tmp_path / "a.txt"), **options))
    (tmp_path / "b.txt").write_text("some text " * 99)
    config = InputConfig(input="text", data_path=str(tmp_path / "b.txt"), eval_split=str(tmp_path / "a.txt"), **options)
    with pytest.raises(UserError, match=f"^eval_split: no text in .*{reason}"):
        open_data(config, n_ctx=16, n_vocab=n_vocab, cache=tmp_path / "cache")


def test_data_that_is_not_there_is_named(tmp_path):
    write(tmp_path / "data" / "a_0.tfrecords", random_documents(20))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.pdf").write_text("")
    refused(tmp_path / "dat", "dat: no such shard, folder or pattern; did you mean .*data", input="packed")
    refused(tmp_path / "empty", "no shards .* in this folder; found readme.pdf", input="packed")
    refused(tmp_path / "data" / "a_1.tfrecords", "did you mean .*a_0.tfrecords", input="packed")
    refused(tmp_path / "data" / "b*", "no such shard, folder or pattern", input="packed")
    refused(tmp_path / "data", "needs shards openwebtext-newspaper_0", input="openwebtext_longbiased")
    dataset = [[["a_0*"], 1]]
    refused(tmp_path / "data" / "a_0.tfrecords", "is no folder; give", input="generic_text", dataset=dataset)
    refused(tmp_path / "data", "no shard is left to train on", input="packed", eval_split=[0])
    missing = r"no shard is left to evaluate on, of a_0.tfrecords \(is 1 or 2 missing\? copy it there\)"
    refused(tmp_path / "data", missing, input="packed", eval_split=[1, 2])
    for side in ("train", "valid"):
        write(tmp_path / "copies" / f"{side}_0.tfrecords", random_documents(5))
    refused(
        tmp_path / "copies",
        "no text is left to train on, .* hold the same texts, and the latter is evaluated on",
        input="packed",
    )
    for missing, match in ((None, "data_path: missing"), ("hdfs://a/data", "not a kind of storage")):
        with pytest.raises((UserError, ValidationError), match=match):
            open_data(InputConfig(data_path=missing, input="packed"), n_ctx=4, n_vocab=END + 1, cache=tmp_path)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_data_of_the_files_in_configs_is_asked_for_by_the_way_to_get_it(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = json.loads(config.read_text())
    folder = values.get("data_path")
    if folder in (None, "python-docs"):
        return
    keys = {key: value for key, value in values.items() if key in InputConfig.model_fields}
    match = f"^data_path: {folder}: no such folder; (this makes it: python3 .*{folder}|put .*data_path=FOLDER)"
    with pytest.raises(UserError, match=match):
        open_data(InputConfig(**keys), n_ctx=16, n_vocab=300, cache=tmp_path / "cache")
    with pytest.raises(UserError) as error:  # another folder than that of the file
        open_data(InputConfig(**keys | {"data_path": "data/other"}), n_ctx=16, n_vocab=300, cache=tmp_path / "cache")
    assert re.search("^data_path: data/other: no such .*; check the spelling", str(error.value))


@pytest.mark.parametrize("n_vocab", [300, END + 1])
def test_text_in_the_place_of_shards_is_refused_with_the_input_for_it(n_vocab, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.jsonl.gz", "plain"):
        (tmp_path / "texts" / name).write_bytes(b"some text, which is no record of any shard " * 9)
    for entry in ("", "a.txt", "*.gz", "b.jsonl.gz"):
        match = r'^data_path: .*: no shards, but text \(.*\); train on it with "input": "text"'
        refused(tmp_path / "texts" / entry, match, input="packed", n_vocab=n_vocab)
    refused(tmp_path / "texts" / "plain", 'not a TFRecord file.*"input": "text"', input="packed")
    write(tmp_path / "texts" / "x_0.tfrecords", random_documents(20, vocabulary=200))
    setup(tmp_path / "texts", input="packed")  # texts next to shards


def test_text_that_is_too_little_is_refused(tmp_path):
    write(tmp_path / "a_0.tfrecords", [[1, 2, 3], [4, 5]])
    for options in ({"input": "packed"}, {"input": "generic_text", "dataset": [[["a_0.tfrecords"], 1]]}):
        refused(tmp_path, r"less than one window of n_ctx \+ 1 = 17; add text", **options, eval_split=0.5)
    write(tmp_path / "a_0.tfrecords", [[i] * 10 for i in range(20)])
    fits = r"has \d+ tokens of 200, as the others are held out, .*; hold out less \(eval_split: a .* of at most 0\.91\)"
    refused(tmp_path, fits, input="packed", eval_split=0.999)
    write(tmp_path / "b_0.tfrecords", [[7, 8], [9]])
    both = {"dataset": [[["a_0.tfrecords"], 1], [["b_0.tfrecords"], 1]], "input": "packed"}
    fits = (
        r"eval_split: 0\.99 leaves no document of b_0\.tfrecords to train on; write a smaller fraction, such as 0\.05"
    )
    refused(tmp_path, fits, **both, eval_split=0.99)
    (tmp_path / "b_0.tfrecords").unlink()
    for documents in ([[1] * 100], [[1] * 100, [1] * 100]):  # evaluate on the ends of documents
        write(tmp_path / "a_0.tfrecords", documents)
        setup(tmp_path, input="packed")
    for documents in ([], [[]], [[], []]):
        write(tmp_path / "a_0.tfrecords", documents)
        refused(tmp_path, "no text is left", input="packed")


def test_vocabularies_that_do_not_fit_are_refused(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.save(tmp_path / "encoder")
    encoder = {"encoder_path": str(tmp_path / "encoder")}
    path = write(tmp_path / "a" / "a_0.tfrecords", random_documents(20, vocabulary=200))
    refused(
        path.parent,
        "without the end-of-text of GPT-2's vocabulary, 1000; set encoder_path",
        input="packed",
        n_vocab=500,
    )
    refused(
        path.parent, "n_vocab is 200, but the vocabulary .* has 257 entries", input="packed", n_vocab=200, **encoder
    )
    setup(path.parent, input="packed", n_vocab=257, **encoder)
    write(tmp_path / "a" / "a_1.tfrecords", [[1, 700, 2]])
    for n_vocab in (257, 1024):
        other = "a_1.tfrecords has the token id 700, .* another vocabulary .*encoder, which has 257 entries; give the"
        refused(path.parent, other, input="packed", n_vocab=n_vocab, **encoder)
    write(tmp_path / "a" / "a_1.tfrecords", random_documents(9, vocabulary=200), tokenizer="b" * 64)
    refused(
        path.parent,
        "a_1.* made with another vocabulary than the one in encoder_path",
        input="packed",
        n_vocab=300,
        **encoder,
    )
    write(tmp_path / "a" / "a_2.tfrecords", random_documents(9, vocabulary=200), tokenizer="c" * 64)
    refused(path.parent, "a_2.* and .*a_1.* were made with different vocabularies", input="packed")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"input": "generic_text"}, "dataset: missing"),
        ({"input": "generic_text", "dataset": [[["a"], -1.0]]}, "dataset: .*weight above 0"),
        ({"input": "generic_text", "dataset": [[[], 1.0]]}, "dataset: .*files"),
        ({"input": "generic_text", "dataset": [[1, 1.0]]}, "dataset"),
        ({"input": "generic_text", "dataset": [["a", 1.0, 2.0]]}, "dataset"),
        ({"eval_split": 1.5}, "eval_split: a fraction must be from 0 to below 1"),
        ({"eval_split": -0.1}, "eval_split: a fraction must be from 0 to below 1"),
        ({"eval_split": []}, "eval_split: empty"),
        ({"eval_split": True}, "a problem:\n  eval_split: give shard numbers .*0.05$"),
        ({"eval_split": [1, "a"]}, "a problem:\n  eval_split: give shard numbers"),
        ({"data_path": 5}, "a problem:\n  data_path: give a folder"),
        ({"input": "packed", "stitch": 2}, "stitch: input packed does not use it; leave it out"),
        ({"input": "openwebtext_longbiased", "stitch": 2}, "stitch: input openwebtext_longbiased does not use it"),
        (
            {"input": "text", "dataset": [[["a"], 1.0]]},
            "dataset: input text does not use it; .* generic_text or packed",
        ),
        ({"input": "generic_text", "dataset": [[["a"], 1.0]], "data_path": ["a"]}, "data_path: .*one folder"),
        ({"stitch": 0}, "stitch"),
        ({"input": "openwebtxt"}, "input"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, match):
    with pytest.raises(UserError, match=match):
        configuration.parse_sections(values, [InputConfig], source="x.json")


def test_settings_are_written_as_they_were_read():
    values = json.loads('{"input": "generic_text", "dataset": [[["a", "b"], 2], [["c"], 0.5]], "eval_split": [1, 2]}')
    (config,) = configuration.parse_sections(values, [InputConfig], source="x.json")
    assert json.loads(json.dumps(configuration.resolved([config]))).items() >= values.items()


def test_a_shard_that_is_there_packed_and_unpacked_is_one(tmp_path):
    for suffix in ("", ".gz"):
        write(tmp_path / f"a_0.tfrecords{suffix}", random_documents(9))
    write(tmp_path / "a_10.tfrecords.gz", random_documents(9, seed=1))
    write(tmp_path / "a_9.tfrecords", random_documents(9, seed=2))
    names = [path.name for path in discovery.find([str(tmp_path), str(tmp_path / "a_9*")])]
    assert names == ["a_0.tfrecords", "a_9.tfrecords", "a_10.tfrecords.gz"]


def test_only_documents_within_a_window_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a_0.tfrecords", [[i] * 50 for i in range(200)])
    shard = open_shard(path)
    read = []
    span = type(shard).span
    monkeypatch.setattr(type(shard), "span", lambda self, i, *rest: read.append(i) or span(self, i, *rest))
    StitchedWindows(Documents([shard]), stitch=100, n_ctx=60, end_of_text=END, seed=0)[1]
    assert len(read) <= 3


def test_a_stream_of_selected_documents(tmp_path):
    path = write(tmp_path / "a_0.tfrecords", [[1], [2, 2], [], [4, 4, 4]])
    documents = Documents([open_shard(path)], [np.array([1, 2, 3], np.uint32)])
    assert documents.total_tokens == 5
    stream = TokenStream(documents, end_of_text=END)
    assert token_stream.read([WindowSpan(stream, 1, 10)])[0].tolist() == [2, END, END, 4, 4, 4, END, 2, 2, END]
    assert index_path(path).exists()


@pytest.mark.parametrize("name", ["nothing", "rot13", "base64", "", "a\0"])
def test_what_is_no_encoding_of_text_is_refused_before_text_is_read(name):
    with pytest.raises(UserError, match="text_encoding: no such encoding; write utf-16 or cp1252"):
        configuration.parse_sections({"input": "text", "text_encoding": name}, [InputConfig], source="x")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5])
def test_a_fraction_that_is_none_is_told_once(value):
    with pytest.raises(UserError, match=r"x has a problem:\n  eval_split: a fraction must be from 0 to below 1"):
        configuration.parse_sections({"eval_split": value}, [InputConfig], source="x")
