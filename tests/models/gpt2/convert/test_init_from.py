"""Initialization of runs: TensorFlow runs continue, other weights are imported, and differences are reported."""

import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, one_device
from helpers.main_runs import call, options, write_corpus
from helpers.tiny_gpt2 import random_params, tiny

import optimizers
from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.interop.tf_checkpoint import Bundle
from estimator.json_text import sealed
from estimator.parallel.param_spec import map_specs, named
from estimator.search import lr_range
from estimator.tokenization import tokenizer
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.tokenization.train_sentencepiece import train_sentencepiece
from estimator.training.fused_step import train_step
from estimator.training.initial_state import state_template
from estimator.training.run_config import RunConfig
from estimator.training.train_step import TrainState
from models import gpt2 as model
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf, name_maps, readers, tf_opt_state

RUNS = ["adamw_warmup_cosine", "adafactor_pow"]
SIZES = {"n_ctx": 16, "n_vocab": 262, "n_embd": 16, "n_head": 2, "n_layer": 2, "max_steps": 3, "train_batch_size": 2}


def make(folder, values, *, vocabulary=None):
    """Creates an Estimator on one device that appends its notes to `notes`."""
    values = {"model_path": str(folder / "run"), "train_batch_size": 4, "scan_layers": True} | values
    config, optimizer, run = parse_sections(
        values, [model.Config, optimizers.OptimizerConfig, RunConfig], source="test"
    )
    params = model.Params(config, optimizer, run.max_steps, vocabulary)
    made = Estimator(model.model_fn, params, run, devices=one_device())
    made.notes = []
    made._note = made.notes.append
    return made


def begin(folder, values, **options):
    """Returns step, parameters, optimizer state, and notes of a new run."""
    made = make(folder, values, **options)
    spec = made.spec("train")
    template = state_template(spec, made.mesh, made.config)
    step, params, completed = spec.initial(template.params, jax.random.key(0), note=made.notes.append)
    zeros = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), template)
    return TrainState(step, params, completed(zeros.optimizer)), made.notes


def golden(name, **changes):
    values = json.loads((GOLDEN / f"{name}.json").read_text())
    return values | {"decay_all": True, "grad_clip": None, "log_steps": 1} | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains for one step with the run's own vocabulary."""
    folder = tmp_path_factory.mktemp("trained")
    train_byte_bpe(["slow lows flower low low"] * 9, n_vocab=262, out=folder / "there")
    run = make(folder, SIZES)
    assert run.train(lambda step: {"tokens": np.full((2, 17), step, np.int32)}, total_steps=1)
    config = SIZES | {"model_path": "x", "encoder_path": str(folder / "there")}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    return folder / "run", run.restore()[1]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_continues_with_weights_averages_and_step(tmp_path, name):
    """The last 8 of 20 steps match whether they start from ConnorJL's checkpoint of step 12 or from our own state."""
    data = np.load(GOLDEN / f"{name}.npz")
    prefix = str(GOLDEN / f"{name}.ckpt")
    bundle = Bundle(prefix)
    state, notes = begin(tmp_path, golden(name, init_from=prefix))
    assert int(state.step) == 12
    assert "continuing TensorFlow checkpoint" in notes[-1]
    made = make(tmp_path, golden(name))
    spec = made.spec("train")
    stored = name_maps.to_tensorflow(state.params, spec.parameters)
    for key in stored:
        np.testing.assert_array_equal(stored[key], bundle[key])

    compiled = jax.jit(train_step(spec.loss, spec.optimizer, accumulation=1, seed=0))

    def losses(state, steps):
        found = []
        for step in steps:
            state, metrics = compiled(state, {"tokens": data["tokens"][step % 12][None]})
            found.append(float(metrics["loss"]))
        return state, np.asarray(found)

    first = {key.removeprefix("init/"): data[key] for key in data.files if key.startswith("init/")}
    params = jax.tree.map(jnp.asarray, name_maps.from_tensorflow(first, spec.parameters))
    begun, before = losses(TrainState(jnp.int32(0), params, spec.optimizer.transform.init(params)), range(12))
    np.testing.assert_allclose(before, data["losses"], atol=2e-4)
    state = jax.tree.map(jnp.asarray, state)
    _, ours = losses(begun, range(12, 20))
    _, continued = losses(state, range(12, 20))
    np.testing.assert_allclose(continued, ours, atol=2e-4)
    # Without the optimizer state the next steps differ, so the test is sensitive to it.
    _, fresh = losses(state._replace(optimizer=spec.optimizer.transform.init(params)), range(12, 20))
    assert np.abs(fresh - ours).max() > 2e-3


def test_a_range_test_of_an_old_run_begins_with_the_lowest_rate(tmp_path):
    """Its optimizer state has counted the steps before the checkpoint, and schedules read that count."""
    name, rates = RUNS[0], [1e-6 * 1e7 ** (k / 3) for k in range(4)]
    values = golden(name, init_from=str(GOLDEN / f"{name}.ckpt"), train_batch_size=2)
    tokens = np.load(GOLDEN / f"{name}.npz")["tokens"][:4, :2]
    found = list(lr_range._losses(make(tmp_path, values), lambda step: {"tokens": tokens[step]}, 4))
    spec, (state, _) = make(tmp_path, values).spec("train"), begin(tmp_path, values)
    constant = spec.optimizer._replace(learning_rate=lambda step: jnp.float32(1))
    compiled = jax.jit(train_step(spec.loss, constant, accumulation=1, seed=0))
    for each, rate, row in zip(found, rates, tokens, strict=True):
        state, metrics = compiled(state._replace(lr_scale=jnp.float32(rate)), {"tokens": row[None]})
        assert (each.lr, each.loss) == pytest.approx((rate, float(metrics["loss"])), rel=1e-3)


def test_averages_of_adafactor_with_momentum_are_told_from_those_without():
    """Names the slots as TensorFlow does: first momentum, then row and column averages, or a single average."""
    config = gpt2.GPT2Config(n_embd=8, n_head=2, n_layer=2, n_ctx=4, n_vocab=10)
    specs = gpt2.parameters(config)
    draw = np.random.default_rng(0)
    arrays = {}
    for name, spec in named(specs):
        shape = name_maps.stored_shape(name_maps.TENSORFLOW, spec)
        for entry in name_maps.entries(name_maps.TENSORFLOW, name, spec):
            factored = [shape[:-1], shape[:-2] + shape[-1:]] if len(shape) > 1 else [shape]
            for number, part in enumerate([shape, *factored]):
                arrays[f"{entry}/AdafactorW" + (f"_{number}" if number else "")] = draw.random(part, np.float32)
    keys = {"opt_name": "adafactor", "beta1": 0.9}
    optimizer = optimizers.make(optimizers.OptimizerConfig(**keys), specs, total_steps=9)
    params = map_specs(lambda spec: jnp.zeros(spec.shape, jnp.float32), specs)
    state = tf_opt_state.read(arrays, specs, optimizer.transform.init(params), step=5, source="it")
    (adafactor, momentum), *_ = state
    assert int(adafactor.count) == int(momentum.count) == 5
    stored = name_maps.to_tensorflow(momentum.ema, specs)
    for key, value in stored.items():
        np.testing.assert_array_equal(value, arrays[f"{key}/AdafactorW"])
    rows, columns = adafactor.rows["h"]["attn"]["c_proj"]["w"], adafactor.columns["h"]["attn"]["c_attn"]["w"]
    np.testing.assert_array_equal(rows[1].ravel(), arrays["model/h1/attn/c_proj/w/AdafactorW_1"].ravel())
    np.testing.assert_array_equal(columns[0].ravel(), arrays["model/h0/attn/c_attn/w/AdafactorW_2"].ravel())
    bias = arrays["model/h1/mlp/c_fc/b/AdafactorW_1"]
    np.testing.assert_array_equal(adafactor.rows["h"]["mlp"]["c_fc"]["b"][1], bias)
    np.testing.assert_allclose(adafactor.columns["h"]["mlp"]["c_fc"]["b"][1], bias.mean(), rtol=1e-6)
    np.testing.assert_array_equal(adafactor.rows["wte"][:10, 0], arrays["model/wte/AdafactorW_1"])

    without = optimizers.make(optimizers.OptimizerConfig(opt_name="adafactor"), specs, total_steps=9)
    with pytest.raises(UserError, match=r"with Adafactor's momentum; write the beta1"):
        tf_opt_state.read(arrays, specs, without.transform.init(params), step=5, source="it")
    del arrays["model/wpe/AdafactorW_2"]
    with pytest.raises(UserError, match="model/wpe/AdafactorW_2 is missing"):
        tf_opt_state.read(arrays, specs, optimizer.transform.init(params), step=5, source="it")


def test_what_does_not_fit_is_told_with_the_fix(tmp_path, monkeypatch):
    prefix = str(GOLDEN / "adamw_warmup_cosine.ckpt")

    def refused(message, **changes):
        with pytest.raises(UserError, match=message):
            begin(tmp_path, golden("adamw_warmup_cosine", init_from=prefix) | changes)

    refused("stopped at step 12 and this run ends at 10; write a larger max_steps", max_steps=10)
    refused(r"n_ctx: 16 here, 32 in .*; write 32, or init_state weights", n_ctx=16)
    refused("has the averages of adam, and opt_name is sgd", opt_name="sgd", init_state="all")
    refused("n_layer: 3 here, 2 in TensorFlow checkpoint .*; write 2", n_layer=3)
    refused("n_embd: 64 here, 32 in", n_embd=64)
    refused("n_inner: 100 here, 128 in TensorFlow checkpoint .*; write 128", n_inner=100)
    refused("neither a file or folder here nor a model that was downloaded", init_from="124M")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny-hf").mkdir(parents=True)
    refused("runs/tinyhf: no such file or folder; did you mean runs/tiny-hf", init_from="runs/tinyhf")
    refused("for a released one, run `python3 download_model.py org/model` first", init_from="org/model")
    begun = tmp_path / "pretrained" / "124M"
    begun.mkdir(parents=True)
    refused("not downloaded to its end; run `python3 download_model.py 124M` again", init_from="124M")
    (begun / "encoder.json").touch()
    (begun / "model.ckpt.index.part").touch()
    for name in ("124M", "pretrained/124M", "pretrained/124M/"):
        refused("pretrained/124M was not .* `python3 download_model.py 124M` again", init_from=name)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("is an empty folder; name one that holds weights", init_from=str(empty))
    (empty / "notes.txt").touch()
    refused("holds no weights .*; name the folder or file of one", init_from=str(empty))
    for path in (tmp_path / "missing", "./missing", "missing.safetensors"):
        refused("missing[a-z.]*: no such file or folder; check the spelling", init_from=str(path))
    os.mkfifo(tmp_path / "pipe")
    refused("neither a file nor a folder; name a file of weights", init_from=str(tmp_path / "pipe"))


def test_other_optimizers_take_the_weights_and_say_so(tmp_path):
    prefix = str(GOLDEN / "adamw_warmup_cosine.ckpt")
    values = golden("adamw_warmup_cosine", init_from=prefix, opt_name="sgd", beta1=None)
    state, notes = begin(tmp_path, values)
    assert int(state.step) == 0
    assert any("averages of adam are left out" in note for note in notes)
    bundle = Bundle(prefix)
    np.testing.assert_array_equal(state.params["wte"], bundle["model/wte"])


def test_positions_and_ids_may_be_fewer_or_more(tmp_path):
    prefix = str(GOLDEN / "adamw_warmup_cosine.ckpt")
    bundle = Bundle(prefix)
    for n_ctx, n_vocab in ((16, 400), (40, 600)):
        changes = {"n_ctx": n_ctx, "n_vocab": n_vocab, "init_state": "weights", "init_from": prefix}
        state, notes = begin(tmp_path, golden("adamw_warmup_cosine", **changes))
        for name, key, rows in (("wpe", "n_ctx", n_ctx), ("wte", "n_vocab", n_vocab)):
            ours, theirs = np.asarray(state.params[name]), bundle[f"model/{name}"]
            same = min(rows, len(theirs))
            np.testing.assert_array_equal(ours[:same], theirs[:same])
            assert all(row.std() > 0 for row in ours[same:rows])
            assert not ours[rows:].any()
            assert any(note.startswith(f"{key}: {len(theirs)}") for note in notes)


def test_a_run_of_ours_is_a_beginning_for_another_and_predicts_without_training(trained, tmp_path):
    folder, params = trained
    second = make(tmp_path, SIZES | {"init_from": str(folder)})
    step, restored = second.restore()
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, params, restored)
    with pytest.raises(UserError, match="set model_path to its folder"):
        begin(tmp_path, SIZES | {"init_from": str(folder), "init_state": "all"})
    # Its own checkpoint takes precedence over init_from.
    third = make(folder.parent, SIZES | {"init_from": "nowhere"})
    assert third.restore()[0] == 1


def test_embeddings_follow_their_tokens_into_another_vocabulary(trained, tmp_path):
    here = train_byte_bpe(["low lower lowest low low lower"] * 9, n_vocab=262, out=tmp_path / "here")
    there = tokenizer.load(trained[0].parent / "there")
    state, notes = begin(tmp_path, SIZES | {"init_from": str(trained[0])}, vocabulary=lambda: tmp_path / "here")
    assert any("another vocabulary" in note for note in notes)
    before, after = trained[1]["wte"], np.asarray(state.params["wte"])
    shared = 0
    for token in range(262):
        word = here.decode_bytes([token])
        match = [other for other in range(262) if there.decode_bytes([other]) == word]
        if match:
            np.testing.assert_array_equal(after[token], before[match[0]])
            shared += 1
    assert 257 < shared < 262


@pytest.mark.parametrize(
    "keys",
    [
        {"lora_rank": 2},
        {"train_only": "transformer"},
        {"lr_scale": {"wpe": 0}},
        {},
        {"lora_rank": 2, "untied_head": True},
        {"lr_scale": {"lm_head": 0}, "untied_head": True},
    ],
)
def test_new_rows_of_embeddings_that_are_not_trained_are_warned_of(keys, trained, tmp_path):
    here = train_byte_bpe(["low lower lowest low low lower"] * 9, n_vocab=262, out=tmp_path / "here")
    there = tokenizer.load(trained[0].parent / "there")
    known = {there.decode_bytes([token]) for token in range(there.n_vocab)}
    tokens = sum(here.decode_bytes([token]) not in known for token in range(here.n_vocab))
    values = SIZES | {"n_ctx": 24, "n_vocab": 300, "init_from": str(trained[0])} | keys
    notes = begin(tmp_path, values, vocabulary=lambda: tmp_path / "here")[1]
    found = [re.search(r"warning: .* of (\d+) new (\w+?)s? stay random, as (\w+) .* train (.*);", n) for n in notes]
    positions = ("8", "position", "wpe")
    expected = (
        [] if not keys else [(str(tokens), "token", "wte and lm_head" if "untied_head" in keys else "wte"), positions]
    )
    if "lr_scale" in keys:
        expected = [(str(tokens), "token", "lm_head")] if "untied_head" in keys else [positions]
    assert [(each[1], each[2], each[4]) for each in found if each] == expected
    assert all(each[3] in keys for each in found if each)


def test_a_run_with_a_vocabulary_of_its_own_is_matched_by_that_and_another_by_id_with_a_warning(trained, tmp_path):
    run = tmp_path / "old"
    shutil.copytree(trained[0], run)
    config = json.loads((run / "config.json").read_text()) | {"encoder_path": None}
    (run / "config.json").write_text(json.dumps(config))
    here = train_byte_bpe(["low lower lowest low low lower"] * 9, n_vocab=262, out=tmp_path / "here")
    values = SIZES | {"init_from": str(run)}
    notes = begin(tmp_path, values, vocabulary=lambda: tmp_path / "here")[1]
    assert any(re.match(r"warning: embeddings .* by id, .* run .*old.*; encoder_path should", note) for note in notes)
    assert readers.vocabulary(str(run)) is None
    here.save(run / "vocabulary")
    (run / "vocabulary.json").write_text(json.dumps(sealed({"digest": here.digest})))
    notes = begin(tmp_path, values, vocabulary=lambda: tmp_path / "here")[1]
    assert not any("embeddings" in note for note in notes)
    assert readers.vocabulary(str(run)) == run / "vocabulary"
    (run / "vocabulary.json").write_text(json.dumps(sealed({"digest": "a" * 64})))
    assert readers.vocabulary(str(run)) is None


def test_check_warns_of_weights_whose_vocabulary_nothing_says(tmp_path, monkeypatch, capfd):
    corpus = tmp_path / "texts"
    corpus.mkdir()
    arguments = options(write_corpus(corpus), tmp_path, init_from=str(tmp_path / "hf"), scale_by_in=True)
    sizes = {"n_ctx": 16, "n_vocab": 300, "n_embd": 16, "n_head": 2, "n_layer": 1}
    config = tiny(**sizes, scale_by_in=True)
    hf.write(tmp_path / "hf", random_params(config), config, encoder=None, dtype="f32")
    line = r"^warning: embeddings are matched by id, as nothing says .* Hugging Face folder .*; encoder_path should"
    assert call(monkeypatch, [*arguments, "--check"]) == 0
    assert re.search(line, capfd.readouterr().out, re.M)
    call(monkeypatch, [*arguments, "--set=max_steps=2"])
    assert len(re.findall(line, "".join(capfd.readouterr()), re.M)) == 1


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_a_vocabulary_that_is_not_read_is_named_with_its_file(kind, tmp_path):
    encoder, there, here = tmp_path / "encoder", tmp_path / "hf", tmp_path / "here"
    if kind == "wordpiece":
        encoder.mkdir()
        (encoder / "vocab.txt").write_text("<unk>\na\n##b\n")
    else:
        train_sentencepiece(["slow lows flower low low"] * 9, n_vocab=280, out=encoder)
    config = tiny(n_vocab=tokenizer.load(encoder).n_vocab, scale_by_in=True)
    hf.write(there, random_params(config), config, encoder=encoder, dtype="f32")
    train_byte_bpe(["low lower lowest low low lower"] * 9, n_vocab=262, out=here)
    values = config.model_dump(exclude_unset=True) | {"init_from": str(there), "max_steps": 3}
    assert not any("by id" in note for note in begin(tmp_path, values, vocabulary=lambda: encoder)[1])
    (there / "vocab.txt").unlink(missing_ok=True)  # as exports of older versions
    (there / "tokenizer.model").unlink(missing_ok=True)
    notes = begin(tmp_path, values, vocabulary=lambda: here)[1]
    assert any(
        re.match(r"warning: embeddings .* by id, .*hf/tokenizer.json: a vocabulary of another kind .*; set enc", note)
        for note in notes
    )


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_the_vocabulary_next_to_weights_is_found_of_any_kind(kind, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert readers.vocabulary(str(tmp_path)) is None
    if kind == "wordpiece":
        (tmp_path / "vocab.txt").write_text("<unk>\na\n##b\n")
    else:
        train_sentencepiece(["slow lows flower low low"] * 9, n_vocab=280, out=tmp_path)
    assert readers.vocabulary(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="no such file or folder"):
        readers.vocabulary(str(tmp_path / "missing.bin"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a run on text with a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "text").mkdir()
    write_corpus(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        call(patch, options(folder / "text", folder, max_steps=2))
    return folder / "run"


def test_the_text_of_a_new_run_gets_the_vocabulary_of_the_run_that_it_begins_with(source, tmp_path, monkeypatch, capfd):
    (tmp_path / "text").mkdir()
    for number in range(20):
        (tmp_path / "text" / f"{number}.txt").write_text("der schnelle braune Fuchs " * (20 + number))
    arguments = options(tmp_path / "text", tmp_path, init_from=str(source), max_steps=2)
    own = tokenizer.load(source / "vocabulary")
    line = f"encoder_path: not set, so the text has the vocabulary of init_from, {source / 'vocabulary'}"
    for command in ("--dry_run", "--check"):
        call(monkeypatch, [*arguments, command])
        assert line in capfd.readouterr().out
    call(monkeypatch, arguments)
    out = "".join(capfd.readouterr())
    assert line in out
    assert not re.search("learning a vocabulary|embeddings", out)
    assert tokenizer.load(tmp_path / "run" / "vocabulary").digest == own.digest
    call(monkeypatch, [*arguments, "--set=max_steps=3"])
    assert not re.search("encoding|vocabulary", "".join(capfd.readouterr()))
    # A smaller one is learned where n_vocab asks for it.
    call(monkeypatch, [*arguments, "--clean", f"--set=n_vocab={own.n_vocab - 9}"])
    out = "".join(capfd.readouterr())
    assert re.search(rf"has {own.n_vocab} entries, and n_vocab is {own.n_vocab - 9}; one is learned", out)
    assert "another vocabulary: " in out


def test_conversations_of_a_new_run_get_the_vocabulary_of_the_run_that_it_begins_with(
    source, tmp_path, monkeypatch, capfd
):
    own = tokenizer.load(source / "vocabulary")
    with open(tmp_path / "chats.jsonl", "w") as file:
        for number in range(40):
            answer = {"role": "assistant", "content": f"The quick brown fox {number} " * 9}
            print(json.dumps({"messages": [{"role": "user", "content": "fox?"}, answer]}), file=file)
    arguments = options(
        tmp_path / "chats.jsonl", tmp_path, input="chat", init_from=str(source), max_steps=2, n_vocab=own.n_vocab + 4
    )
    with pytest.raises(UserError, match=f"set n_vocab to {own.n_vocab + 4} or more"):
        call(monkeypatch, [*arguments, f"--set=n_vocab={own.n_vocab}"])
    call(monkeypatch, arguments)
    assert f"another vocabulary: {own.n_vocab} of {own.n_vocab + 4} tokens" in "".join(capfd.readouterr())
    call(monkeypatch, [*arguments, "--set=max_steps=3"])
    assert not re.search("encoding|vocabulary", "".join(capfd.readouterr()))
    assert tokenizer.load(tmp_path / "run" / "vocabulary").n_vocab == own.n_vocab + 4
