"""Untied output matrices, and blocks with different widths, compared with transformers, llama.cpp, and NumPy."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_device

import export_model
import optimizers
from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.interop.safetensors_io import SafeTensors
from estimator.parallel import auto_mesh, mesh, shardings
from estimator.parallel.param_spec import abstract, named
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.training.checkpoints import Checkpoints
from estimator.training.run_config import RunConfig
from models import gpt2 as model
from models.gpt2 import flops, lora
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf, name_maps
from models.gpt2.decode.sampler import Sampler, Settings

SIZES = {"n_ctx": 16, "n_vocab": 262, "n_embd": 16, "n_head": 2, "n_layer": 2, "train_batch_size": 8, "log_steps": 1}
WIDE = {"n_hidden": 32, "n_inner": 48}
BOTH = WIDE | {"untied_head": True}
NO_DROPOUT = {"embed_dropout": 0.0, "attn_dropout": 0.0, "res_dropout": 0.0, "scale_by_in": False}


def config_of(**changes):
    values = SIZES | NO_DROPOUT | changes
    return model.Config(**{key: value for key, value in values.items() if key in model.Config.model_fields})


def random_params(config):
    """Returns random parameters of scale 0.3, including biases and gains, so that errors in any of them show up."""
    draw = np.random.default_rng(0)
    specs = abstract(gpt2.parameters(config))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape, np.float32)), specs)


def estimator(folder, devices=None, **changes):
    values = {"model_path": str(folder / "run"), "max_steps": 9} | SIZES | NO_DROPOUT | changes
    config, optimizer, run = parse_sections(
        values, [model.Config, optimizers.OptimizerConfig, RunConfig], source="test"
    )
    params = model.Params(config, optimizer, run.max_steps)
    return Estimator(model.model_fn, params, run, devices=devices or one_device())


def logits(params, config, tokens):
    def compute(params, tokens):
        hidden, _ = gpt2.forward(gpt2.cast(params, config), tokens, config=config)
        return gpt2.logits(params, hidden, config=config)[..., : config.n_vocab]

    return np.asarray(jax.jit(compute)(params, jnp.asarray(tokens)))


def export(monkeypatch, folder, values, *arguments):
    (folder / "x.json").write_text(json.dumps(values | {"max_steps": 9}))
    monkeypatch.setattr(sys, "argv", ["export_model.py", "--model", str(folder / "x.json"), *map(str, arguments)])
    export_model.main()


def test_without_them_the_model_is_gpt2():
    plain, named_so = config_of(), config_of(n_hidden=16, n_inner=64, untied_head=False)
    assert set(gpt2.parameters(plain)) == {"wte", "wpe", "h", "ln_f"}
    assert gpt2.parameters(plain) == gpt2.parameters(named_so)
    assert flops.flops_per_token(plain) == flops.flops_per_token(named_so)


def naive_logits(arrays, config, tokens):
    """Returns scores [T, V] of one row from arrays with TensorFlow's names, computed in float64 per head."""
    a = {name.removeprefix("model/"): np.asarray(value, np.float64).squeeze() for name, value in arrays.items()}

    def norm(x, at):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * a[f"{at}/g"] + a[f"{at}/b"]

    def dense(x, at):
        return x @ a[f"{at}/w"] + a[f"{at}/b"]

    x = dense(a["wte"][tokens] + a["wpe"][: len(tokens)], "in_proj")
    for i in range(config.n_layer):
        q, k, v = np.split(dense(norm(x, f"h{i}/ln_1"), f"h{i}/attn/c_attn"), 3, axis=-1)
        heads = []
        for part in np.split(np.arange(config.n_hidden), config.n_head):
            scores = q[:, part] @ k[:, part].T / np.sqrt(len(part))
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(p / p.sum(-1, keepdims=True) @ v[:, part])
        x = x + dense(np.concatenate(heads, -1), f"h{i}/attn/c_proj")
        u = dense(norm(x, f"h{i}/ln_2"), f"h{i}/mlp/c_fc")
        x = x + dense(0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))), f"h{i}/mlp/c_proj")
    return dense(norm(x, "ln_f"), "out_proj") @ a.get("lm_head", a["wte"]).T


@pytest.mark.parametrize("change", [BOTH, {"n_hidden": 8, "scan_layers": True}], ids=str)
def test_blocks_of_another_width_compute_the_formula(change):
    config = config_of(**change)
    params = random_params(config)
    arrays = name_maps.to_tensorflow(params, gpt2.parameters(config))
    tokens = np.random.default_rng(1).integers(0, 262, (2, 16))
    expected = np.stack([naive_logits(arrays, config, row) for row in tokens])
    np.testing.assert_allclose(logits(params, config, tokens), expected, rtol=1e-4, atol=1e-4)

    # Cached decoding: each token has the largest logit of the formula.
    sampler = Sampler(params, config)
    row = [3, 1]
    for chunk in sampler.stream([row], settings=Settings(0.0), length=8, seed=0, stopped=set()):
        row = row + chunk[0]
    scores = naive_logits(arrays, config, np.asarray(row))
    assert row[2:] == scores[1:-1].argmax(-1).tolist()


def test_all_that_is_multiplied_is_counted():
    for change in ({}, WIDE, BOTH, {"untied_head": True}):
        config = config_of(**change)
        matrices = [spec for name, spec in named(gpt2.parameters(config)) if spec.rows and name.endswith("/w")]
        head = config.padded_vocab * config.n_embd
        assert flops.matmul_parameters(config) == sum(spec.count for spec in matrices) + head
        kept = flops.activation_bytes(config, "reference")
        assert (kept > flops.activation_bytes(config_of(), "reference")) == ("n_hidden" in change)


@pytest.mark.parametrize("change", [{"activation": "silu"}, {"layer_norm_epsilon": 1e-4}])
def test_what_the_native_gradients_do_not_compute_again_is_counted_as_kept(change):
    def kept(implementation, **change):
        return flops.activation_bytes(config_of(**change), implementation)

    assert kept("native") < kept("native", **change)
    assert kept("flash") == kept("flash", **change)


def test_a_mesh_gives_the_loss_and_the_gradients_of_one_device():
    config = config_of(**BOTH, scan_layers=True)
    params, specs = random_params(config), gpt2.parameters(config)
    batch = {"tokens": np.random.default_rng(0).integers(0, 262, (8, 17)).astype(np.int32)}

    def computed(sizes, devices):
        grid = auto_mesh.make_mesh(dict(zip(mesh.AXES, sizes, strict=True)), devices)
        placed = jax.device_put(params, shardings.parameter_shardings(specs, grid))
        rows = jax.device_put(batch, mesh.split_dim(grid, 0))
        loss = mesh.with_mesh(grid, lambda values, rows: gpt2.loss(values, rows, None, config=config)[0] / 128)
        return placed, jax.jit(jax.value_and_grad(loss))(placed, rows)

    _, expected = computed((1, 1, 1), one_device())
    placed, found = computed((2, 2, 2), jax.devices())
    assert placed["lm_head"].sharding.shard_shape((320, 16)) == (160, 8)
    assert placed["in_proj"]["w"].sharding.shard_shape((16, 32)) == (16, 16)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_an_untied_model_of_transformers_comes_and_goes(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    torch = pytest.importorskip("torch", reason="compares with transformers")
    torch.manual_seed(0)
    sizes = {key: SIZES[key] for key in ("n_embd", "n_head", "n_layer")} | {"initializer_range": 0.3}
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=262, n_positions=16, tie_word_embeddings=False, **sizes)
    ).eval()
    theirs.save_pretrained(tmp_path / "there")
    values = SIZES | {"model_path": str(tmp_path / "run"), "init_from": str(tmp_path / "there"), "untied_head": True}
    ours = estimator(tmp_path, **values).restore()[1]
    tokens = np.random.default_rng(0).integers(0, 262, (3, 16))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(ours, config_of(untied_head=True), tokens), expected, atol=1e-4)
    with pytest.raises(UserError, match=r"untied_head: .*an output matrix of its own; write true"):
        estimator(tmp_path, **(values | {"untied_head": False})).restore()

    export(monkeypatch, tmp_path, values, "--to", "hf", "--out", tmp_path / "back", "--no_tokenizer")
    stored, first = SafeTensors([tmp_path / "back" / "model.safetensors"]), theirs.state_dict()
    for name in stored:
        np.testing.assert_array_equal(stored[name], first[name].numpy())
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back").eval()
    assert loaded.config.tie_word_embeddings is False
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(torch.tensor(tokens)).logits.numpy(), expected)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "encoder"
    train_byte_bpe(["slow lows flower low low"] * 9, n_vocab=262, out=folder)
    return folder


def test_llama_cpp_has_our_logits_of_an_untied_model(tmp_path, monkeypatch, vocabulary):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    change = {"untied_head": True, "n_inner": 48}
    config, params = config_of(**change), random_params(config_of(**change))
    hf.write(tmp_path / "hf", params, config, encoder=None, dtype="f32")
    values = SIZES | change | {"model_path": str(tmp_path / "run"), "init_from": str(tmp_path / "hf")}
    file, tokens = tmp_path / "m.gguf", np.random.default_rng(0).integers(0, 262, (1, 16))
    export(monkeypatch, tmp_path, values | {"encoder_path": str(vocabulary)}, "--to", "gguf", "--out", file)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    np.testing.assert_array_equal(tensors["output.weight"], params["lm_head"][:262])
    np.testing.assert_array_equal(tensors["token_embd.weight"], params["wte"][:262])

    llama_cpp = pytest.importorskip("llama_cpp", reason="compares with llama-cpp-python")
    llama = llama_cpp.Llama(str(file), n_ctx=16, verbose=False, n_threads=1, logits_all=True)
    llama.eval(tokens[0].tolist())
    expected = logits(params, config, tokens)[0]
    np.testing.assert_allclose(np.asarray(llama.scores)[:16], expected, atol=1e-3 * np.abs(expected).max())


def test_transformer_lm_with_projections_is_read_and_not_exported(tmp_path, monkeypatch, vocabulary):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    config = config_of(**WIDE)
    params = random_params(config)
    theirs = {}
    for name, array in name_maps.to_tensorflow(params, gpt2.parameters(config)).items():
        parts = name.removeprefix("model/").split("/")
        parts = ["blocks", parts[0][1:], *parts[1:]] if parts[0] in ("h0", "h1") else parts
        if len(parts) == 1:
            parts.append("weight")
        elif "ln_" not in parts[-2]:
            parts[-1] = {"w": "weight", "b": "bias"}[parts[-1]]
        theirs[".".join(parts)] = torch.tensor(np.array(array[0].T if array.ndim == 3 else array))
    for name in ("in_proj.weight", "out_proj.weight"):
        theirs[name] = theirs[name].T.contiguous()
    assert theirs["in_proj.weight"].shape == (32, 16)
    torch.save({"state_dict": theirs}, tmp_path / "model.pt")
    values = SIZES | {"init_from": str(tmp_path / "model.pt")}
    found = estimator(tmp_path, **values, **WIDE).restore()[1]
    for name, array in name_maps.to_tensorflow(params, gpt2.parameters(config)).items():
        np.testing.assert_array_equal(name_maps.to_tensorflow(found, gpt2.parameters(config))[name], array)
    with pytest.raises(UserError, match="n_hidden: 16 here, 32 in PyTorch file"):
        estimator(tmp_path, **values).restore()

    values |= WIDE | {"model_path": str(tmp_path / "run"), "encoder_path": str(vocabulary)}
    for kind in ("hf", "gguf"):
        with pytest.raises(UserError, match="n_hidden: neither Hugging Face's GPT-2 nor GGUF has projections"):
            export(monkeypatch, tmp_path, values, "--to", kind)


def test_a_run_begins_with_the_head_of_another_or_with_its_embedding(tmp_path):
    for name, keys in (("tied", WIDE), ("untied", BOTH)):
        checkpoints = Checkpoints(tmp_path / name / "checkpoints", writer=True)
        params = random_params(config_of(**keys))
        checkpoints.save(3, {"step": jnp.int32(3), "params": params, "optimizer": {"count": jnp.int32(3)}})
        checkpoints.close()
        (tmp_path / name / "config.json").write_text(json.dumps(SIZES | keys | {"model_path": "x"}))
        begun = estimator(tmp_path, **BOTH, init_from=str(tmp_path / name)).restore()[1]
        head = params["lm_head"] if name == "untied" else params["wte"]
        expected = {**params, "lm_head": head.at[262:].set(0), "wte": params["wte"].at[262:].set(0)}
        jax.tree.map(np.testing.assert_array_equal, begun, expected)
    with pytest.raises(UserError, match=r"untied_head: run .*write true"):
        estimator(tmp_path, **WIDE, init_from=str(tmp_path / "untied")).restore()


def test_adapters_are_beside_the_matrices_of_the_blocks_alone():
    config = config_of(**BOTH, lora_rank=2)
    specs = lora.parameters(config)
    assert set(specs[lora.LORA]) == {"attn_c_attn", "attn_c_proj", "mlp_c_fc", "mlp_c_proj"}
    assert specs[lora.LORA]["mlp_c_fc"]["a"].shape == (2, 32, 2)
    assert {"lm_head", "in_proj/w", "wte"} <= set(lora.frozen(specs, config))
