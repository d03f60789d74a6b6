"""Training GPT-2 with the Estimator: results do not depend on micro-batches or the number of devices."""

import jax
import numpy as np
import pytest
from conftest import one_device
from helpers.runs import losses, perplexity, records
from helpers.tiny_gpt2 import TINY

from estimator.estimator import Estimator
from estimator.training.run_config import RunConfig
from models.gpt2 import Config, Params, model_fn
from optimizers import OptimizerConfig

STEPS = 20


def batch(step: int, rows: int = 8) -> dict[str, np.ndarray]:
    """Returns a predictable sequence: each token is the previous one plus 1 or 2."""
    draw = np.random.default_rng(step)
    steps = draw.integers(1, 3, (rows, 17))
    return {"tokens": ((draw.integers(0, 100, (rows, 1)) + steps.cumsum(1)) % 100).astype(np.int32)}


def evaluation():
    """Yields five rows, the last of which is only half used."""
    weights = np.ones((5, 16), np.float32)
    weights[4, 8:] = 0
    yield batch(1000, 5) | {"weights": weights}


def train(folder, *, devices=None, optimizer: str = "adam", **changes) -> tuple[list[float], list[float]]:
    rates = dict.fromkeys(("embed_dropout", "attn_dropout", "res_dropout"), 0.0)
    sizes = TINY | {"n_layer": 2, "scan_layers": True}  # compiles fast
    model = Config(**sizes, **rates, **changes.pop("model", {}))
    config = RunConfig(
        model_path=str(folder), train_batch_size=8, max_steps=STEPS, train_steps=10, log_steps=1, **changes
    )
    params = Params(model, OptimizerConfig(opt_name=optimizer, lr=0.01, neuron_beta2=0.9), STEPS)
    run = Estimator(model_fn, params, config, devices=devices or one_device())
    run.train(batch, total_steps=STEPS, evaluation=run.evaluate(evaluation, describe=perplexity))
    return losses(folder), [record["loss"] for record in records(folder, "eval")]


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "muon", "sgd"])
def test_eight_devices_give_the_losses_of_one(tmp_path, optimizer):
    one = train(tmp_path / "one", optimizer=optimizer)
    assert one[0][-1] < one[0][0]
    eight = train(tmp_path / "eight", optimizer=optimizer, devices=jax.devices())
    for ours, theirs in zip(eight, one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_cut_of_a_batch_does_not_change_the_losses(tmp_path):
    whole = train(tmp_path / "8", micro_batch_size=8)
    for micro in (1, 2):
        for ours, theirs in zip(train(tmp_path / str(micro), micro_batch_size=micro), whole, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bfloat16_learns_what_float32_learns(tmp_path):
    exact, _ = train(tmp_path / "float32")
    fast, _ = train(tmp_path / "bfloat16", model={"precision": "bfloat16"})
    # Products have 8 bits of mantissa, which changes the mean loss by a few thousandths.
    assert abs(np.mean(fast) - np.mean(exact)) < 0.02
