"""Partial training: frozen weights stay bit-identical, and adapters are initially a no-op and can be merged."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.main_runs import call, options

import export_model
from estimator.config import ConfigError, parse_sections
from estimator.errors import UserError
from estimator.parallel.param_spec import initialize, named
from estimator.training.fused_step import train_step
from estimator.training.train_step import TrainState
from models import gpt2 as model
from models.gpt2 import lora
from models.gpt2 import model as gpt2
from optimizers import OptimizerConfig

SIZES = {"n_embd": 8, "n_head": 2, "n_layer": 3, "n_ctx": 6, "n_vocab": 20, "attn_dropout": 0.0, "res_dropout": 0.0,
         "embed_dropout": 0.0, "scale_by_in": False, "scan_layers": True}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 20, (1, 2, 7)).astype(np.int32)


def test_adapters_of_random_weights_are_warned_of():
    (warning,) = model.warnings(model.Config(**SIZES, lora_rank=2))
    assert warning.startswith("lora_rank: without init_from")
    assert model.warnings(model.Config(**SIZES, lora_rank=2, init_from="124M")) == []
    assert model.warnings(model.Config(**SIZES)) == []


def trained(steps=2, opt="adam", **keys):
    """Returns parameters by name before and after some steps, the state, and the configuration."""
    config = model.Config(**SIZES, **keys)
    optimizer = OptimizerConfig(opt_name=opt, lr=0.01, weight_decay=0.1, decay_all=True, grad_clip=None)
    spec = model.model_fn(model.Params(config, optimizer, 10), "train")
    params = initialize(spec.parameters, jax.random.key(0))
    state = TrainState(jnp.int32(0), params, spec.optimizer.transform.init(params))
    step = jax.jit(train_step(spec.loss, spec.optimizer, accumulation=1, seed=0))
    for _ in range(steps):
        state, metrics = step(state, {"tokens": TOKENS})
    names = [name for name, _ in named(spec.parameters)]
    flat = [dict(zip(names, map(np.asarray, jax.tree.leaves(tree)), strict=True)) for tree in (params, state.params)]
    return *flat, state, config, metrics


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("opt", ["adam", "adafactor", "muon"])
def test_only_the_transformer_is_trained(opt):
    before, after, state, _, _ = trained(train_only="transformer", opt=opt)
    assert moved(before, after) == {name for name in before if name.startswith("h/")}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.optimizer)]
    assert not any("wte" in path for path in paths)  # frozen weights have no optimizer state


def test_first_blocks_stay_and_the_others_move_as_if_all_moved():
    before, after, _, _, metrics = trained(steps=1, freeze_layers=2)
    _, whole, _, _, all_metrics = trained(steps=1)
    for name in before:
        if name.startswith("h/"):
            np.testing.assert_array_equal(before[name][:2], after[name][:2], err_msg=name)
            np.testing.assert_allclose(after[name][2], whole[name][2], atol=3e-6, err_msg=name)
    assert float(metrics["grad_norm"]) < float(all_metrics["grad_norm"])
    assert float(metrics["loss"]) == pytest.approx(float(all_metrics["loss"]), abs=1e-5)


def test_learning_rates_of_groups_multiply_the_steps():
    before, after, *_ = trained(steps=1, lr_scale={"wte": 0.5, "h": 0.1, "h/attn": 2.0, "ln_f": 0})
    _, whole, *_ = trained(steps=1)
    for name, factor in (("wte", 0.5), ("wpe", 1), ("h/mlp/c_fc/w", 0.1), ("h/attn/c_proj/w", 2), ("ln_f/g", 0)):
        np.testing.assert_allclose(
            after[name] - before[name], factor * (whole[name] - before[name]), atol=2e-6, err_msg=name
        )


def test_adapters_alone_are_trained_and_merge_into_the_model():
    before, after, state, config, _ = trained(steps=3, lora_rank=2)
    assert moved(before, after) == {name for name in before if name.startswith("lora/")}
    base = gpt2.GPT2Config(**SIZES)
    plain = {name: value for name, value in state.params.items() if name != "lora"}
    merged = lora.merged(state.params, config)
    assert jax.tree.structure(merged) == jax.tree.structure(plain)
    # The product, written out for one matrix.
    a, b = after["lora/attn_c_attn/a"], after["lora/attn_c_attn/b"]
    expected = after["h/attn/c_attn/w"] + 2 * np.einsum("ldr,lrchk->ldchk", a, b)
    np.testing.assert_allclose(merged["h"]["attn"]["c_attn"]["w"], expected, atol=1e-6)
    spec = model.model_fn(model.Params(config, OptimizerConfig(), 10), "eval")
    ours = spec.loss(state.params, {"tokens": TOKENS[0]}, None)[0]
    assert float(ours) == pytest.approx(float(gpt2.loss(merged, {"tokens": TOKENS[0]}, None, config=base)[0]), rel=1e-5)
    # Before training, adapters do not change the model.
    fresh = initialize(spec.parameters, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, lora.merged(fresh, config)["h"], fresh["h"])


def test_a_run_that_computes_another_function_than_in_training_is_warned_of(corpus, tmp_path, monkeypatch, capfd):
    arguments = options(corpus, tmp_path, max_steps=2, lora_rank=2)
    call(monkeypatch, arguments)
    two = ["--set=lora_alpha=3", "--set=activation=relu"]
    padded = ["--set=n_vocab=320"]  # the rows of 300 are as many
    cases = [
        (["--set=lora_alpha=16"], ["lora_alpha"]),
        (["--set=lora_alpha=4"], []),  # what null means
        (two, ["activation", "lora_alpha"]),
        (padded, ["n_vocab"]),
        ([], []),
    ]
    for changes, keys in cases:
        for command in (["--evaluate"], ["--predict_text", "The"], ["--to", "hf", "--out", str(tmp_path / "hf")]):
            capfd.readouterr()
            if command[0] == "--to":
                monkeypatch.setattr(sys, "argv", ["export_model.py", *arguments, *changes, *command])
                export_model.main()
            else:
                call(monkeypatch, [*arguments, *changes, *command])
            text = "".join(capfd.readouterr())
            assert sorted(re.findall(r"warning: (\w+): .* before, .* now, so the model is not", text)) == keys


def test_a_plain_run_is_what_it_was():
    config = model.Config(**SIZES)
    specs = lora.parameters(config)
    assert specs == gpt2.parameters(config)
    function = object()
    assert lora.loss(function, specs, config) is function
    assert lora.optimizer(lambda given: given, specs, config) is specs


def test_keys_that_contradict_each_other_are_told():
    with pytest.raises(UserError, match="lora_rank: trains adapters alone"):
        parse_sections(SIZES | {"lora_rank": 2, "freeze_layers": 1}, [model.Config], source="x")
    for value in ({"lora_rank": 0}, {"lora_rank": 0, "lora_alpha": 8}):
        with pytest.raises(UserError, match=r"or write null: no adapters, and lora_alpha left out too$"):
            parse_sections(SIZES | value, [model.Config], source="x")
    with pytest.raises(UserError, match=r"lora_alpha: is for adapters; write lora_rank, or leave it out \(null\)"):
        parse_sections(SIZES | {"lora_rank": None, "lora_alpha": 8}, [model.Config], source="x")
    with pytest.raises(UserError, match="lr_scale: no parameter begins with attn; available: h/attn"):
        trained(lr_scale={"attn": 0.1})
    with pytest.raises(UserError, match="freeze_layers: 4 is more than the 3 blocks"):
        trained(freeze_layers=4)
    with pytest.raises(UserError, match="nothing is trained"):
        trained(train_only="transformer", freeze_layers=3)
    assert issubclass(ConfigError, ValueError)
