"""Window samplers: windows are functions of their index, tokens have the right probabilities, and shapes are fixed."""

import re
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT
from helpers.main_runs import call, options

from estimator.data.batches import Batches, EvaluationBatches
from estimator.data.config import InputConfig
from estimator.data.mixture import Mixture
from estimator.data.samplers import RandomWindows, SentenceWindows, StitchedWindows
from estimator.data.segment_ids import Segmented, shorter_contexts
from estimator.data.token_stream import Documents, PackedDataset
from estimator.errors import UserError
from estimator.shards.tfrecord import ShardWriter, open_shard
from estimator.tokenization.sentence_ends import sentence_ends
from estimator.tokenization.tokenizer import byte_level_tokenizer, load
from inputs import open_data

END = 256


def write(path, documents):
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as writer:
        for number, ids in enumerate(documents):
            writer.write(b"%d" % number, np.array(ids, np.int32))
    return path


def documents_of(path, texts):
    return Documents([open_shard(write(path, texts))])


def test_a_pass_over_stitched_windows_has_as_many_targets_as_there_are_tokens(tmp_path):
    documents = documents_of(tmp_path / "a_0.tfrecords", [range(99)] * 40)
    ways = {"n_ctx": 10, "end_of_text": END, "seed": 0}
    stitched, packed = StitchedWindows(documents, stitch=20, **ways), PackedDataset(documents, **ways)
    assert (stitched.windows_per_epoch, stitched.windows_per_pass) == (2, 400)
    assert packed.windows_per_pass == packed.windows_per_epoch == 400
    assert Segmented(stitched, end_of_text=END).windows_per_pass == 400
    mixed = Mixture([stitched, packed], [0.25, 0.75], seed=0)
    assert (mixed.windows_per_epoch, mixed.windows_per_pass) == (134 * 4, 400 * 4)


def test_max_epochs_and_the_console_count_passes_over_the_tokens_of_stitched_windows(tmp_path, monkeypatch, capsys):
    shards = write(tmp_path / "openwebtext-newspaper_0.tfrecords", [[i % 250] * 99 for i in range(84)]).parent
    arguments = options(shards, tmp_path, input="openwebtext", max_epochs=2, max_steps=None, n_vocab=257, n_ctx=16)
    vocabulary = byte_level_tokenizer()
    vocabulary.save(tmp_path / "encoder")
    arguments += [f"--set=encoder_path={tmp_path / 'encoder'}", "--set=eval_split=0.05", "--check"]
    assert call(monkeypatch, arguments) == 0
    said = capsys.readouterr().out
    tokens, windows = (
        int(re.search(pattern, said)[1].replace(",", ""))
        for pattern in (r"documents \(([\d,]+) tokens\) for training", r"training, ([\d,]+) windows an epoch")
    )
    assert windows == pytest.approx(tokens / 16, rel=0.02)
    assert f"of {2 * windows // 8}," in said
    assert "warning: max_steps" not in said


# Random start positions.


def test_every_start_is_equally_likely_and_found_by_its_number(tmp_path):
    documents = documents_of(tmp_path / "a_0.tfrecords", [range(7), range(10, 15), [], range(20, 41)])
    total = 7 + 5 + 0 + 21 + 4
    source = RandomWindows(documents, n_ctx=6, end_of_text=END, seed=3)
    assert source.windows_per_epoch == total // 6
    count = 200 * total
    starts = Counter(source.place(i).start for i in range(count))
    assert set(starts) == set(range(total))
    chi_squared = sum((seen - 200) ** 2 / 200 for seen in starts.values())
    assert chi_squared < 67  # 36 degrees of freedom: p = 0.001
    circle = [*range(7), END, *range(10, 15), END, END, *range(20, 41), END] * 2
    for index in (0, 5, 10**12):
        start = source.place(index).start
        assert source[index].tolist() == circle[start : start + 7]
        again = RandomWindows(documents, n_ctx=6, end_of_text=END, seed=3)
        assert np.array_equal(again[index], source[index])


# Sentence boundaries.


def sentence_source(tmp_path, texts, *, n_ctx=16, seed=0):
    tokenizer = byte_level_tokenizer()
    documents = documents_of(tmp_path / "a_0.tfrecords", [tokenizer.encode(text) for text in texts])
    return tokenizer, SentenceWindows(documents, ends=sentence_ends(tokenizer), n_ctx=n_ctx, end_of_text=END, seed=seed)


def test_windows_begin_right_after_the_end_of_a_sentence_a_line_or_a_text(tmp_path):
    tokenizer, source = sentence_source(tmp_path, ["It rains. Does it? Yes! It does\nAnd more", "Another text here."])
    begins = Counter(tokenizer.decode(source[i])[:8] for i in range(3000))
    assert set(begins) == {" Does it", " Yes! It", " It does", "And more", "Another ", "<|endoft", "It rains"}
    assert begins[" Yes! It"] > begins[" It does"]  # a start is as likely as the preceding sentence is long


def test_a_text_without_ends_of_sentences_is_drawn_from_all_the_same(tmp_path):
    tokenizer, source = sentence_source(tmp_path, ["x" * 3000])
    assert {tokenizer.decode(source[i])[0] for i in range(100)} >= {"x"}
    assert source[5].shape == (17,)


def test_the_ends_of_sentences_of_gpt2(gpt2_encoder):
    tokenizer = load(gpt2_encoder)
    ends = sentence_ends(tokenizer)
    for text in (".", "!", "?", '."', ".)", "\n", "\n\n", "...", "?!", ' ."'):
        ids = tokenizer.encode(text)
        assert ends[ids[-1]], text
    for text in (",", " the", "a", " ", '"', " 12", "com", "<"):
        assert not ends[tokenizer.encode(text)].any(), text
    assert ends[50256]
    assert 50 < ends.sum() < 1000


# Segments of several lengths.


def test_half_of_the_windows_are_cut_into_contexts_of_each_length(tmp_path):
    documents = documents_of(tmp_path / "a_0.tfrecords", [range(1, 200)] * 3)
    packed = PackedDataset(documents, n_ctx=20, end_of_text=END, seed=0)
    assert shorter_contexts(20, 4) == [4, 8, 16]
    source = Segmented(packed, contexts=[4, 8, 16], end_of_text=None, seed=1)
    batch = source.batch(range(3000))
    assert np.array_equal(batch["tokens"], packed.batch(range(3000))["tokens"])
    assert batch["segments"].dtype == np.int32
    kinds = Counter(int((row == 0).sum()) for row in batch["segments"])
    assert set(kinds) == {4, 8, 16, 21}
    assert abs(kinds[21] - 1500) < 100
    assert all(abs(kinds[length] - 500) < 80 for length in (4, 8, 16))
    for row in batch["segments"]:
        length = int((row == 0).sum())
        assert row.tolist() == [place // length for place in range(21)]
    alone = Segmented(packed, contexts=[4, 8, 16], end_of_text=None, seed=1).batch([2999])
    assert np.array_equal(alone["segments"][0], batch["segments"][2999])


def test_a_segment_ends_with_its_document(tmp_path):
    documents = documents_of(tmp_path / "a_0.tfrecords", [[1, 2], [3], [4, 5, 6, 7]])
    source = Segmented(PackedDataset(documents, n_ctx=8, end_of_text=END, seed=0), end_of_text=END)
    batch = source.batch(range(5))
    for tokens, segments in zip(batch["tokens"].tolist(), batch["segments"].tolist(), strict=True):
        assert segments == [tokens[:place].count(END) for place in range(9)]


def test_contexts_must_be_shorter_than_the_window():
    assert shorter_contexts(64, None) == []
    assert shorter_contexts(65, 64) == [64]
    with pytest.raises(UserError, match="n_ctx_min: 64 is not below n_ctx, 64"):
        shorter_contexts(64, 64)


# Options of the JSON configuration.


def opened(folder, **options):
    config = InputConfig(data_path=str(folder), encoder_path=str(folder / "encoder"), **options)
    return open_data(config, n_ctx=16, n_vocab=257, cache=folder / "cache")


@pytest.fixture
def folder(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.save(tmp_path / "encoder")
    for name in "ab":
        texts = [f"{9 * name}{number}. {9 * name}." * 3 for number in range(40)]
        write(tmp_path / f"{name}_0.tfrecords", tokenizer.encode_batch(texts))
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        {"input": "packed", "sampling": "random"},
        {"input": "packed", "sampling": "sentences"},
        {"input": "packed", "n_ctx_min": 4},
        {"input": "openwebtext", "n_ctx_min": 4, "separate_documents": True, "eval_split": 0.1},
        {"input": "packed", "dataset": [["a_0.tfrecords", 1.0], ["b_0.tfrecords", 3.0]], "separate_documents": True},
    ],
)
def test_batches_are_the_same_on_any_number_of_hosts_and_at_any_time(folder, options):
    options = {**options}
    if "dataset" in options:
        options["dataset"] = [[[files], weight] for files, weight in options["dataset"]]
    whole, again = (Batches(opened(folder, **options).train, batch_size=8) for _ in range(2))
    parts = [Batches(opened(folder, **options).train, batch_size=8, host_index=i, host_count=4) for i in range(4)]
    for step in (10**9, 0, 7):
        batch = whole(step)
        assert all(np.array_equal(batch[key], again(step)[key]) for key in batch)
        assert batch.keys() == ({"tokens", "segments"} if len(options) > 2 or "n_ctx_min" in options else {"tokens"})
        for key in batch:
            assert np.array_equal(batch[key], np.concatenate([part(step)[key] for part in parts]))
    assert (
        whole(3)["tokens"] != Batches(opened(folder, **options, data_seed=1).train, batch_size=8)(3)["tokens"]
    ).any()


def test_corpora_are_packed_by_weight(folder):
    dataset = [[["a_*"], 1.0], [["b_*"], 3.0]]
    train = opened(folder, input="packed", dataset=dataset).train
    a, b = byte_level_tokenizer().encode("ab")
    is_a = [(train[i] == a).sum() > (train[i] == b).sum() for i in range(400)]
    assert [sum(is_a[i : i + 4]) for i in range(0, 400, 4)] == [1] * 100


def test_evaluation_separates_documents_as_training_does_and_is_never_cut(folder):
    separate = EvaluationBatches(
        opened(folder, input="packed", separate_documents=True, n_ctx_min=4), batch_size=4, steps=3
    )
    for batch in separate.batches():
        ends = (batch["tokens"][:, :-1] == 256).cumsum(axis=1)
        assert np.array_equal(batch["segments"][:, 1:], ends)
        assert (batch["segments"][:, 0] == 0).all()
        assert (batch["weights"] == 0)[batch["tokens"][:, :-1] == 256].all()
        assert batch["weights"].sum() > 0.8 * batch["weights"].size
    whole = EvaluationBatches(opened(folder, input="packed", n_ctx_min=4), batch_size=4, steps=3)
    assert all(batch.keys() == {"tokens", "weights"} for batch in whole.batches())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"input": "openwebtext", "sampling": "random"},
            "sampling: input openwebtext does not use it; .* packed or text",
        ),
        ({"input": "generic_text", "dataset": [[["a"], 1.0]], "sampling": "once"}, "sampling: input generic_text"),
        ({"input": "packed", "sampling": "sentences"}, "encoder_path: missing; sampling sentences"),
        ({"input": "packed", "sampling": "every"}, "sampling"),
        ({"input": "packed", "n_ctx_min": 0}, "n_ctx_min"),
        ({"input": "packed", "dataset": [[["a"], 1.0]], "data_path": ["b"]}, "data_path: with dataset, one folder"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, match):
    from estimator import config

    with pytest.raises(UserError, match=match):
        config.parse_sections(values, [InputConfig], source=ROOT / "x.json")


# Token noise.


def test_noise_replaces_some_input_tokens_in_training_and_no_targets(monkeypatch):
    import jax
    import jax.numpy as jnp

    from models.gpt2 import model

    config = model.GPT2Config(
        n_ctx=64, n_vocab=50, n_embd=8, n_head=2, n_layer=1, noise=0.25, embed_dropout=0, attn_dropout=0, res_dropout=0
    )
    specs = model.parameters(config)
    params = jax.tree.map(lambda spec: jnp.full(spec.shape, spec.mean), specs, is_leaf=lambda x: hasattr(x, "shape"))
    seen = []
    hidden = jnp.zeros((100, 64, 8))
    monkeypatch.setattr(model, "forward", lambda params, tokens, **_: (seen.append(tokens) or hidden, None))
    tokens = jnp.full((100, 65), 7)

    def inputs_of(key, noise=0.25):
        model.loss(params, {"tokens": tokens}, key, config=config.model_copy(update={"noise": noise}))
        return np.asarray(seen[-1])

    first = inputs_of(jax.random.key(0))
    others = first[first != 7]
    assert abs(len(others) / first.size - 0.25 * 49 / 50) < 0.025
    assert set(others.tolist()) == set(range(50)) - {7}
    assert np.array_equal(first, inputs_of(jax.random.key(0)))
    assert (first != inputs_of(jax.random.key(1))).any()
    for unchanged in (inputs_of(None), inputs_of(jax.random.key(0), noise=0.0)):
        assert (unchanged == 7).all()
