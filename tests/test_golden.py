"""Our model and optimizers against the seed's own, run under TensorFlow 1.15 (see the fixtures' README)."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import FIXTURES

import optimizers
from models.gpt2 import gpt2, weights
from runtime.config import divide

GOLDEN = Path(os.environ.get("GPT2_GOLDEN", FIXTURES / "golden"))
RUNS = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@pytest.mark.skipif(not RUNS, reason=f"no reference runs in {GOLDEN}")
@pytest.mark.parametrize("name", RUNS or ["none"])
def test_logits_and_losses_equal_the_seeds(name):
    # The seed decays every variable and never clips.
    values = json.loads((GOLDEN / f"{name}.json").read_text()) | {"decay_all": True, "grad_clip": None}
    schedule = {key: values.pop(key) for key in ("max_steps",)}
    config, optimizer_config = divide(values, [gpt2.GPT2Config, optimizers.OptimizerConfig], source=name)
    data = np.load(GOLDEN / f"{name}.npz")
    specs = gpt2.parameters(config)

    def variables(part):
        return {key.removeprefix(part): data[key] for key in data.files if key.startswith(part)}

    params = jax.tree.map(jnp.asarray, weights.from_tensorflow(variables("init/"), specs, source=name))
    inputs = data["tokens"][0, :, :-1]
    hidden, _ = gpt2.forward(params, inputs, config=config)
    scores = gpt2.logits(params, hidden, config=config)
    np.testing.assert_allclose(scores, data["logits_step0"], atol=1e-5)

    optimizer = optimizers.make(optimizer_config, specs, total_steps=schedule["max_steps"])

    @jax.jit
    def step(params, state, tokens):
        def mean(params):
            total, weight = gpt2.loss(params, {"tokens": tokens}, None, config=config)
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

    ours = weights.to_tensorflow(params, specs)
    for key, expected in variables("final/").items():
        value = ours[key]
        if key.endswith("attn/c_attn/b"):
            # The gradient of the key's bias is zero in exact arithmetic, and Adam divides noise by noise there.
            keep = np.r_[0 : config.n_embd, 2 * config.n_embd : 3 * config.n_embd]
            value, expected = value[keep], expected[keep]
        assert np.linalg.norm(value - expected) <= 2e-3 * np.linalg.norm(expected) + 1e-6, key
