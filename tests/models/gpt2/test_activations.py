"""Activations, attention scales, and epsilons other than GPT-2's: logits match transformers on every code path."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator.errors import UserError
from estimator.interop import gpt2_config
from estimator.parallel.param_spec import named
from models.gpt2 import cpu_kernels, model
from models.gpt2.convert import gguf, hf, name_maps
from models.gpt2.convert.readers import open_source
from models.gpt2.decode.sampler import Sampler, Settings
from models.gpt2.ops import ACTIVATIONS, Activation
from tests.helpers.gradients import draw_tokens
from tests.helpers.tiny_gpt2 import random_params, tiny

SIZES = {"n_ctx": 16, "n_vocab": 100, "n_embd": 32, "n_layer": 3, "n_head": 4}
OTHERS = [
    *({"activation": name} for name in ACTIVATIONS),
    {"layer_norm_epsilon": 0.1},
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "activation": "gelu"},
]


def logits(params, config, tokens, *, implementation="reference"):
    hidden, _ = model.forward(model.cast(params, config), tokens, config=config, implementation=implementation)
    return model.logits(params, hidden, config=config)[..., : config.n_vocab]


@pytest.mark.parametrize("keys", OTHERS, ids=str)
def test_the_logits_are_those_of_transformers(tmp_path, keys):
    """Imports weights from save_pretrained, and exports ours for from_pretrained."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    theirs_config = {("activation_function" if key == "activation" else key): value for key, value in keys.items()}
    settings = transformers.GPT2Config(
        n_positions=16, vocab_size=100, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3, **theirs_config
    )
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(settings).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    source = open_source(str(tmp_path / "theirs"))
    config = model.GPT2Config(**SIZES | {key: value for key, value in source.settings.items() if key != "n_head"})
    assert all(getattr(config, key) == value for key, value in keys.items())
    specs = model.parameters(config)
    values = {
        name: jnp.asarray(name_maps.padded(name_maps.read(source.arrays, name, spec, source.layout), spec))
        for name, spec in named(specs)
    }
    params = jax.tree_util.tree_map_with_path(lambda path, _: values[model_path(path)], specs)
    tokens = np.random.default_rng(0).integers(0, 100, (2, 16))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(params, config, jnp.asarray(tokens)), expected, atol=2e-4)

    hf.write(tmp_path / "ours", params, config, encoder=None, dtype="f32")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.tensor(tokens)).logits.numpy(), expected, atol=1e-5)


def model_path(path):
    return "/".join(str(part.key) for part in path)


@pytest.mark.parametrize("keys", [{"activation": "relu"}, OTHERS[-1] | {"layer_norm_epsilon": 0.1}], ids=str)
def test_training_generation_and_the_cpu_kernels_compute_the_same(keys):
    config = tiny(**keys)
    params = random_params(config)
    tokens = draw_tokens(config.n_vocab, 2, 17)
    plain = model.loss(params, {"tokens": tokens}, None, config=tiny())[0]
    if obstacle := cpu_kernels.obstacle():
        pytest.skip(obstacle)
    losses = [
        jax.value_and_grad(
            lambda params, changed=changed, program=program: model.loss(
                params, {"tokens": tokens}, None, config=tiny(**keys, **changed), implementation=program
            )[0]
        )(params)
        for changed, program in (({}, "reference"), ({"scan_layers": True}, "reference"), ({}, "native"))
    ]
    assert abs(losses[0][0] - plain) > 1e-3  # the options have an effect
    for value, gradient in losses[1:]:
        np.testing.assert_allclose(value, losses[0][0], rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4), gradient, losses[0][1])
    # Cached greedy generation selects the largest logit of the forward pass.
    row = [3, 1]
    for chunk in Sampler(params, config).stream([row], settings=Settings(0.0), length=8, seed=0, stopped=set()):
        row = row + chunk[0]
    assert row[2:] == np.asarray(logits(params, config, jnp.asarray([row])))[0, 1:-1].argmax(-1).tolist()


def test_the_reader_of_config_json_knows_the_models_keys():
    assert set(gpt2_config.ACTIVATIONS) == set(ACTIVATIONS) == set(get_args(Activation))
    assert {key: model.GPT2Config.model_fields[key].default for key in gpt2_config.FUNCTION} == gpt2_config.DEFAULTS


def test_gguf_refuses_what_llama_cpp_would_compute_wrongly(tmp_path):
    for keys in ({"activation": "gelu"}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}):
        with pytest.raises(UserError, match=rf"{next(iter(keys))}: llama\.cpp's GPT-2 does not know"):
            gguf.write(tmp_path / "a.gguf", {}, tiny(**keys), encoder=tmp_path, dtype="f32", name="a")
