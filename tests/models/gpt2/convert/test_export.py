"""Exports: transformers and llama.cpp compute the same results, and importing an export restores the exact weights."""

import functools
import json
import os
import re
import resource
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import GOLDEN, one_device
from helpers.main_runs import call
from helpers.texts import random_prose

import export_model
import optimizers
from estimator import errors
from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.interop.safetensors_io import SafeTensors
from estimator.storage import locks
from estimator.tokenization import tokenizer
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.training.run_config import RunConfig
from models import gpt2 as model
from models.gpt2 import lora
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf

PROMPTS = ["the low tower", "Sir, ", "slow", "12 flowers", "\u00e9t\u00e9 low"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a configuration that starts from weights of ConnorJL/GPT2, with a vocabulary of its size."""
    folder = tmp_path_factory.mktemp("export")
    tokenizer = train_byte_bpe([random_prose(4000)], n_vocab=512, out=folder / "encoder")
    assert tokenizer.n_vocab == 512
    values = json.loads((GOLDEN / "adamw_warmup_cosine.json").read_text())
    values |= {"init_from": str(GOLDEN / "adamw_warmup_cosine.ckpt"), "train_batch_size": 1}
    values |= {"model_path": str(folder / "run"), "encoder_path": str(folder / "encoder")}
    (folder / "x.json").write_text(json.dumps(values))
    return folder / "x.json"


def estimator(path, **changes):
    values = json.loads(path.read_text()) | changes
    del values["encoder_path"]
    config, optimizer, run = parse_sections(
        values, [model.Config, optimizers.OptimizerConfig, RunConfig], source="test"
    )
    return Estimator(model.model_fn, model.Params(config, optimizer, 20), run, devices=one_device()), config


def weights_from(path, **changes):
    return estimator(path, **changes)[0].restore()[1]


def export(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, "argv", ["export_model.py", "--model", str(path), *map(str, arguments)])
    export_model.main()


@functools.cache
def logits_of(path):
    """Returns a jitted function from rows of 32 tokens to logits."""
    made, config = estimator(path)
    params = made.restore()[1]
    return jax.jit(lambda rows: gpt2.logits(params, gpt2.forward(params, rows, config=config)[0], config=config))


def our_logits(path, tokens):
    return np.stack([logits_of(path)(row[None])[0] for row in tokens])


def test_transformers_gives_our_logits_and_the_way_back_our_bits(source, tmp_path, monkeypatch):
    out = tmp_path / "hf"
    export(monkeypatch, source, "--to", "hf", "--out", out)
    jax.tree.map(np.testing.assert_array_equal, weights_from(source, init_from=str(out)), weights_from(source))
    config = json.loads((out / "config.json").read_text())
    assert config["n_ctx"] == config["n_positions"] == 32
    assert not list(out.glob("*.tmp"))
    tensors = SafeTensors([out / "model.safetensors"])
    assert tensors.shape("transformer.wte.weight") == (512, 32)  # neither padding nor a copy as lm_head
    assert "lm_head.weight" not in tensors

    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    torch = pytest.importorskip("torch", reason="compares with transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(out).eval()
    tokens = np.random.default_rng(0).integers(0, 512, (3, 32))
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(our_logits(source, tokens.astype(np.int32)), logits, atol=1e-4)
    other, ours = transformers.AutoTokenizer.from_pretrained(out), tokenizer.load(out)
    for prompt in PROMPTS:
        assert other(prompt)["input_ids"] == ours.encode(prompt)
    assert theirs.generation_config.eos_token_id == ours.end_of_text == other.eos_token_id

    # Files written by transformers itself, sharded safetensors and the old pickle format, can also be read.
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    (tmp_path / "bin").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for folder in ("parts", "bin"):
        back = weights_from(source, init_from=str(tmp_path / folder))
        jax.tree.map(np.testing.assert_array_equal, back, weights_from(source))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}),  # transformers' own top_k is 50
        ({"temperature": 0.7, "top_k": 11, "top_p": 0.9}, {"temperature": 0.7, "top_k": 11, "top_p": 0.9}),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}),
        ({"temperature": 0, "repetition_penalty": 1.2}, {"do_sample": False, "repetition_penalty": 1.2}),
    ],
)
def test_transformers_samples_with_the_settings_of_the_json_file(source, tmp_path, monkeypatch, keys, expected):
    (tmp_path / "x.json").write_text(json.dumps(json.loads(source.read_text()) | keys))
    export(monkeypatch, tmp_path / "x.json", "--to", "hf", "--out", tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert {key: written.get(key) for key in expected} == expected
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert {key: getattr(theirs, key) for key in expected} == expected


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_smaller_types_are_rounded_to_the_nearest(source, tmp_path, monkeypatch, dtype):
    export(monkeypatch, source, "--to", "hf", "--out", tmp_path, "--dtype", dtype)
    library = pytest.importorskip("safetensors.torch", reason="compares with safetensors")
    stored = library.load_file(tmp_path / "model.safetensors")
    ours = weights_from(source)
    import torch

    expected = torch.tensor(np.array(ours["wpe"])).to({"f16": torch.float16, "bf16": torch.bfloat16}[dtype])
    assert torch.equal(stored["transformer.wpe.weight"], expected)
    back = weights_from(source, init_from=str(tmp_path))
    np.testing.assert_array_equal(back["wpe"], expected.float().numpy())


def test_gguf_holds_our_weights_in_every_type(source, tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    ours = weights_from(source)
    for dtype, error in (("f32", 0), ("f16", 1e-3), ("bf16", 4e-3), ("q8_0", 1e-2)):
        export(monkeypatch, source, "--to", "gguf", "--out", tmp_path, "--dtype", dtype)
        reader = gguf.GGUFReader(tmp_path / f"run-{dtype}.gguf")
        tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        assert len(tensors) == 2 * 12 + 4
        pairs = {
            "token_embd.weight": np.asarray(ours["wte"])[:512],
            "blk.1.attn_qkv.weight": np.asarray(ours["h"]["attn"]["c_attn"]["w"][1]).reshape(32, 96).T,
            "blk.0.attn_output.weight": np.asarray(ours["h"]["attn"]["c_proj"]["w"][0]).reshape(32, 32).T,
        }
        for name, expected in pairs.items():
            np.testing.assert_allclose(tensors[name], expected, atol=error * np.abs(expected).max(), rtol=0)
        np.testing.assert_array_equal(tensors["position_embd.weight"][:32], ours["wpe"])
        np.testing.assert_array_equal(tensors["blk.1.ffn_down.bias"], ours["h"]["mlp"]["c_proj"]["b"][1])
        assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
        assert reader.fields["gpt2.context_length"].contents() == 256
        assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 512


def test_llama_cpp_continues_as_we_do(source, tmp_path, monkeypatch):
    llama_cpp = pytest.importorskip("llama_cpp", reason="compares with llama-cpp-python")
    export(monkeypatch, source, "--to", "gguf", "--out", tmp_path / "m.gguf")
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=32, verbose=False, n_threads=1)
    ours = tokenizer.load(source.parent / "encoder")
    for prompt in PROMPTS:
        tokens = llama.tokenize(prompt.encode(), add_bos=False)
        assert tokens == ours.encode(prompt)
        llama.reset()
        row = list(tokens)
        stream = llama.generate(tokens, temp=0.0, repeat_penalty=1.0)
        while len(row) < 32:
            row.append(next(stream))
        # Greedy decoding: each token has the highest of our logits, or one that is equal to five digits.
        scores = our_logits(source, np.asarray([row], np.int32))[0]
        for place in range(len(tokens), 32):
            best = scores[place - 1].max()
            assert scores[place - 1][row[place]] >= best - 1e-4 * abs(best), (prompt, place)


def test_a_checkpoint_of_two_devices_with_adapters_is_exported_merged(source, tmp_path, monkeypatch):
    values = json.loads(source.read_text()) | {"model_path": str(tmp_path / "run"), "train_batch_size": 2}
    values |= {
        "lora_rank": 2,
        "save_steps": 1,
        "scan_layers": True,
        "init_state": "weights",
        "lr": 0.1,
        "warmup_steps": 0,
    }
    (tmp_path / "x.json").write_text(json.dumps(values))
    del values["encoder_path"]
    config, optimizer, run = parse_sections(
        values, [model.Config, optimizers.OptimizerConfig, RunConfig], source="test"
    )
    params = model.Params(config, optimizer, 2)
    two = Estimator(model.model_fn, params, run, devices=jax.devices()[:2])
    tokens = np.random.default_rng(0).integers(0, 512, (2, 2, 33)).astype(np.int32)
    assert two.train(lambda step: {"tokens": tokens[step]}, total_steps=2)
    for step in (1, 2):
        monkeypatch.setattr(export_model, "LARGE", 0 if step == 1 else 1e9)  # one array at a time, then all together
        out = tmp_path / str(step)
        export(monkeypatch, tmp_path / "x.json", "--to", "hf", "--out", out, "--step", step)
        trained = lora.merged(two.restore(step=step)[1], config)
        back = weights_from(source, init_from=str(out))
        jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), back, trained)
    moved = np.abs(np.asarray(back["h"]["mlp"]["c_fc"]["w"]) - weights_from(source)["h"]["mlp"]["c_fc"]["w"]).max()
    assert moved > 1e-3
    with pytest.raises(UserError, match=r"has no step 7; available: 1, 2"):
        export(monkeypatch, tmp_path / "x.json", "--to", "hf", "--step", 7)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    pass


def test_an_export_that_is_killed_while_its_files_are_moved_is_repeated(source, tmp_path, monkeypatch):
    export(monkeypatch, source, "--to", "hf", "--out", tmp_path / "whole" / "hf")
    expected, replace = files(tmp_path / "whole" / "hf"), os.replace
    for moves in range(len(expected)):
        out = tmp_path / str(moves) / "hf"
        moved = iter(range(moves))

        def move(old, new):
            if Path(new).parent == out and next(moved, None) is None:  # noqa: B023
                raise Killed
            replace(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(hf.os, "replace", move)
            patch.setattr(hf.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
            with pytest.raises(Killed):
                export(monkeypatch, source, "--to", "hf", "--out", out)
        assert not (out / "model.safetensors").exists()
        export(monkeypatch, source, "--to", "hf", "--out", out)
        assert files(out) == expected
        assert os.listdir(out.parent) == ["hf"]


def test_an_export_replaces_what_a_killed_one_left_of_a_gguf_file(source, tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="needs the package gguf")
    export(monkeypatch, source, "--to", "gguf", "--out", tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    (tmp_path / "a.gguf.tmp").write_bytes(whole + b"longer")
    export(monkeypatch, source, "--to", "gguf", "--out", tmp_path / "a.gguf")
    assert files(tmp_path) == {"a.gguf": whole}


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_two_exports_do_not_write_one_place(source, tmp_path, monkeypatch, to):
    pytest.importorskip("gguf", reason="needs the package gguf")
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.05)
    out = tmp_path / "a.gguf"
    with locks.exclusive(tmp_path / ".a.gguf.lock", ""), pytest.raises(UserError, match=f"exports to {out}; wait for"):
        export(monkeypatch, source, "--to", to, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(("to", "bytes_"), [("hf", 2000), ("gguf", 20000)])
def test_a_disk_that_takes_no_more_is_named_with_a_fix(source, tmp_path, monkeypatch, to, bytes_):
    pytest.importorskip("gguf", reason="needs the package gguf")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "a.gguf"
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        with pytest.raises((UserError, OSError)) as error:
            export(monkeypatch, source, "--to", to, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(f"^{tmp_path}/.*a.gguf.*choose another place", errors.message(error.value))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damaged", ["vocabulary.json", "vocabulary/tokenizer.json"])
def test_a_damaged_vocabulary_of_a_run_is_named(source, tmp_path, monkeypatch, damaged):
    values = json.loads(source.read_text()) | {"input": "text", "data_path": str(tmp_path), "n_vocab": 512}
    del values["encoder_path"]
    (tmp_path / "x.json").write_text(json.dumps(values | {"model_path": str(tmp_path / "run")}))
    encoder = tokenizer.load(source.parent / "encoder")
    encoder.save(tmp_path / "run" / "vocabulary")
    (tmp_path / "run" / "vocabulary.json").write_text(json.dumps({"digest": encoder.digest}))
    (tmp_path / "a.txt").write_text("text")
    export(monkeypatch, tmp_path / "x.json", "--to", "hf")
    (tmp_path / "run" / damaged).unlink()
    with pytest.raises(UserError, match=rf"run/{damaged.partition('/')[0]}.* missing or damaged; restore"):
        export(monkeypatch, tmp_path / "x.json", "--to", "hf")


def test_what_cannot_be_exported_is_told(source, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--dtype q8_0: --to hf has f32, f16, bf16"):
        export(monkeypatch, source, "--to", "hf", "--dtype", "q8_0")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json of something else"):
        export(monkeypatch, source, "--to", "hf", "--out", tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        export(monkeypatch, source, "--to", "hf", "--set", "init_from=null")
    unbegun = ["init_from=null", "encoder_path=null", "input=text", "data_path=python-docs"]  # learns a vocabulary
    with pytest.raises(UserError, match=r"no checkpoint yet; train first: python3 main\.py"):
        export(monkeypatch, source, "--to", "hf", *(word for key in unbegun for word in ("--set", key)))


def test_weights_of_init_from_are_named_so_and_a_run_by_its_path_from_here(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "ft"
    run.mkdir(parents=True)
    values = json.loads(Path(source).read_text()) | {"model_path": "runs/ft"}
    (run / "config.json").write_text(json.dumps(values))
    (run / "origin.json").write_text("{}")
    (tmp_path / "ft.json").write_text(json.dumps(values))
    for path in ("ft.json", "runs/ft"):
        export(monkeypatch, path, "--to", "hf")
        assert re.fullmatch(r"init_from, [\d,]+ parameters, as f32: runs/ft-hf\n", capsys.readouterr().out)
    call(monkeypatch, ["--model", "ft.json", "--predict_text", "a", "--length", "1"])
    assert "weights of init_from (runs/ft)" in capsys.readouterr().err
