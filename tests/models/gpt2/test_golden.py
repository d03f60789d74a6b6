"""Model and optimizers compared with ConnorJL/GPT2 under TensorFlow 1.15 (see tests/golden/README.md)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import GOLDEN

import optimizers
from estimator.config import parse_sections
from estimator.interop.tf_checkpoint import Bundle
from models.gpt2 import model
from models.gpt2.convert import name_maps

RUNS = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@pytest.mark.skipif(not RUNS, reason=f"no reference runs in {GOLDEN}")
@pytest.mark.parametrize("name", RUNS or ["none"])
def test_logits_losses_and_weights_equal_those_of_connorjl(name):
    # ConnorJL/GPT2 applies weight decay to all variables and does not clip gradients.
    values = json.loads((GOLDEN / f"{name}.json").read_text()) | {"decay_all": True, "grad_clip": None}
    schedule = {key: values.pop(key) for key in ("max_steps",)}
    config, optimizer_config = parse_sections(values, [model.GPT2Config, optimizers.OptimizerConfig], source=name)
    data = np.load(GOLDEN / f"{name}.npz")
    specs = model.parameters(config)

    def variables(part):
        return {key.removeprefix(part): data[key] for key in data.files if key.startswith(part)}

    def final():
        stored = Bundle(GOLDEN / f"{name}.ckpt") if (GOLDEN / f"{name}.ckpt.index").exists() else {}
        return variables("final/") or {key: stored[key] for key in variables("init/")}

    params = jax.tree.map(jnp.asarray, name_maps.from_tensorflow(variables("init/"), specs, source=name))
    inputs = data["tokens"][0, :, :-1]
    hidden, _ = model.forward(params, inputs, config=config)
    scores = model.logits(params, hidden, config=config)
    expected = data["logits_step0"]
    if expected.shape[-1] < config.n_vocab:  # every fourth token of each position, see golden/README.md
        scores = np.stack([scores[:, place, place % 4 :: 4] for place in range(config.n_ctx)], 1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)

    optimizer = optimizers.make(optimizer_config, specs, total_steps=schedule["max_steps"])

    @jax.jit
    def step(params, state, tokens):
        def mean(params):
            total, weight = model.loss(params, {"tokens": tokens}, None, config=config)
            return total / weight

        loss, grads = jax.value_and_grad(mean)(params)
        updates, state = optimizer.transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.transform.init(params)
    losses = []
    for tokens in data["tokens"]:
        params, state, loss = step(params, state, tokens)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, data["losses"], atol=2e-4)

    ours = name_maps.to_tensorflow(params, specs)
    for key, expected in final().items():
        value = ours[key]
        if key.endswith("attn/c_attn/b"):
            # The gradient of the key bias is zero in exact arithmetic, so Adam divides noise by noise.
            keep = np.r_[0 : config.n_embd, 2 * config.n_embd : 3 * config.n_embd]
            value, expected = value[keep], expected[keep]
        assert np.linalg.norm(value - expected) <= 2e-3 * np.linalg.norm(expected) + 1e-6, key
