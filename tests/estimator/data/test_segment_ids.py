"""Segments packed into one row give the same results as separate rows, for every attention that runs here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import draw

from estimator.parallel import param_spec as parameters
from models.gpt2 import model
from models.gpt2.model import GPT2Config, attention

LENGTHS = [[7, 1, 20, 5], [30, 3]]


def tiny(**changes) -> GPT2Config:
    values = {"n_ctx": 32, "n_vocab": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "scale_by_in": False}
    return GPT2Config(**(values | changes))


def random_params(config: GPT2Config):
    random = np.random.default_rng(0)
    specs = model.parameters(config)
    drawn = parameters.map_specs(lambda spec: random.normal(0, 0.1, spec.shape).astype(np.float32), specs)
    drawn["wte"][config.n_vocab :] = 0
    return jax.tree.map(jnp.asarray, drawn)


def packed(lengths: list[list[int]]) -> dict[str, np.ndarray]:
    """Returns rows with segments of the given lengths, random tokens, and random weights."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 100, (len(lengths), sum(lengths[0]))).astype(np.int32)
    segments = np.stack([np.repeat(np.arange(len(row)), row) for row in lengths]).astype(np.int32)
    weights = random.integers(0, 2, (len(lengths), tokens.shape[1] - 1)).astype(np.float32)
    return {"tokens": tokens, "segments": segments, "weights": weights}


def alone(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moves each segment to the start of its own row, padded with zero-weight tokens."""
    tokens, weights = [], []
    for row, segments in enumerate(batch["segments"]):
        for number in np.unique(segments):
            (inside,) = np.nonzero(segments == number)
            tokens.append(np.pad(batch["tokens"][row, inside], (0, len(segments) - len(inside))))
            weights.append(np.pad(batch["weights"][row, inside[:-1]], (0, len(segments) - len(inside))))
    return {"tokens": np.stack(tokens), "weights": np.stack(weights)}


def total(params, batch, config):
    return model.loss(params, batch, None, config=config)[0]


@pytest.mark.parametrize("change", [{}, {"scan_layers": True}, {"remat": "full"}])
def test_a_packed_window_gives_the_losses_of_its_conversations_computed_alone(change):
    config, batch = tiny(**change), packed(LENGTHS)
    params = random_params(config)
    loss_and_gradient = jax.jit(jax.value_and_grad(partial(total, config=config)))
    loss, gradient = loss_and_gradient(params, batch)
    expected_loss, expected = loss_and_gradient(params, alone(batch))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected)


def test_the_first_token_of_a_segment_is_no_target():
    config, batch = tiny(), packed(LENGTHS)
    params = random_params(config)
    inside = batch["segments"][:, 1:] == batch["segments"][:, :-1]
    assert model.loss(params, batch, None, config=config)[1] == (batch["weights"] * inside).sum()
    del batch["weights"]
    assert model.loss(params, batch, None, config=config)[1] == inside.sum()


def test_one_segment_is_a_window_as_ever():
    config, batch = tiny(), packed([[33], [33]])
    params = random_params(config)
    with_segments = model.loss(params, batch, None, config=config)
    del batch["segments"]
    np.testing.assert_allclose(with_segments, model.loss(params, batch, None, config=config), rtol=1e-6)


def test_flash_attention_within_segments_equals_the_reference():
    """Runs the TPU kernel in Pallas's interpreter."""
    tpu = pytest.importorskip("jax.experimental.pallas.tpu")
    q, k, v = (draw(2, 256, 2, 64, seed=seed) for seed in range(3))
    segments = jnp.stack([jnp.repeat(jnp.arange(4), 64), jnp.repeat(jnp.arange(2), jnp.array([1, 255]))])

    def squares(implementation):
        return lambda q, k, v: (attention(q, k, v, implementation=implementation, segments_BT=segments) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(squares("reference"), argnums=(0, 1, 2)))(q, k, v)
    with tpu.force_tpu_interpret_mode():
        actual = jax.jit(jax.value_and_grad(squares("flash"), argnums=(0, 1, 2)))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5), actual, expected)


def test_cudnn_is_asked_for_the_mask_of_the_reference(monkeypatch):
    """cuDNN needs a GPU, so XLA computes the call that would be passed to cuDNN."""
    asked = []
    plain = jax.nn.dot_product_attention

    def by_xla(*arrays, implementation, **options):
        asked.append(implementation)
        return plain(*arrays, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    q, k, v = (draw(2, 33, 2, 8, seed=seed) for seed in range(3))
    segments = jnp.asarray(packed(LENGTHS)["segments"])
    expected = attention(q, k, v, implementation="reference", segments_BT=segments)
    actual = attention(q, k, v, implementation="cudnn", segments_BT=segments)
    assert asked == ["cudnn"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
