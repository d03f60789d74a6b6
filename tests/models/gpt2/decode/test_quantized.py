"""Quantized matrices for CPU inference compared with NumPy in float64, and generation compared with XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.sampling import GREEDY, generate
from helpers.tiny_gpt2 import random_params, tiny

from estimator.errors import UserError
from estimator.parallel import param_spec
from models.gpt2 import cpu_kernels, model
from models.gpt2.decode.quantized import quantize_matrix
from models.gpt2.decode.sampler import Sampler, Settings

# Maximum rounding error: relative to the number for 24 or 8 bits, and to the largest of its block for int8.
STEP = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "int8": 1 / 254}


@pytest.fixture(autouse=True)
def _compiled():
    if obstacle := cpu_kernels.obstacle():
        pytest.skip(obstacle)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("storage", STEP)
@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 64, 1), (3, 100, 7), (8, 256, 33), (16, 64, 5), (40, 1100, 50), (400, 1400, 9)]
)
def test_products_are_those_of_the_stored_numbers(storage, rows, width, outputs):
    x, w = numbers(rows, width), numbers(width, outputs, seed=1)
    matrix = quantize_matrix(w, rows=1, storage=storage)
    stored = np.asarray(matrix[jnp.arange(outputs)], np.float64).T
    largest = np.abs(w).max() if storage == "int8" else np.abs(w)  # a block's maximum is at most the matrix's
    assert (np.abs(stored - np.asarray(w)) <= STEP[storage] * largest * 1.001).all()
    exact = np.asarray(x, np.float64) @ stored
    # `width` float32 products are summed; processors with pairwise products also round x like the weights.
    tolerance = {"float32": 2.0**-21, "bfloat16": 2.0**-7, "int8": 2.0**-6}[storage] * np.sqrt(width)
    np.testing.assert_allclose(matrix.product(x), exact, atol=4 * tolerance, rtol=0)
    bias = numbers(outputs, seed=2)
    np.testing.assert_array_equal(matrix.product(x, bias), np.asarray(matrix.product(x)) + bias)
    np.testing.assert_array_equal(matrix.product(x, is_gelu=True), matrix.product(cpu_kernels.gelu(x)))


def test_dims_of_inputs_and_outputs_are_kept():
    x, w = numbers(2, 1, 4, 16), numbers(4, 16, 3, 5)
    y = quantize_matrix(w, rows=2, storage="float32").product(x)
    np.testing.assert_allclose(y, np.einsum("abhk,hkcd->abcd", x, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("storage", STEP)
def test_a_row_has_the_same_bits_in_any_batch(storage):
    """Covers batches that fit into registers, batches that fit into caches, and larger ones."""
    width = 1200
    x = numbers(500, width)
    matrix = quantize_matrix(numbers(width, 50, seed=1), rows=1, storage=storage)
    together = np.asarray(matrix.product(x))
    for rows in (*range(1, 20), 33, 40, 130, 390):
        np.testing.assert_array_equal(matrix.product(x[:rows]), together[:rows])
    np.testing.assert_array_equal(matrix.product(x[5:6]), together[5:6])


@pytest.mark.parametrize("storage", STEP)
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_its_row_only(storage, fault):
    x, matrix = numbers(3, 128), quantize_matrix(numbers(128, 5, seed=1), rows=1, storage=storage)
    expected = np.asarray(matrix.product(x))
    found = np.asarray(matrix.product(x.at[1, 70].set(fault)))
    assert not np.isfinite(found[1]).any()
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


def test_large_matrices_are_shared_among_threads_without_a_gap():
    x, w = numbers(2, 512), numbers(512, 3001, seed=1)
    for storage in STEP:
        matrix = quantize_matrix(w, rows=1, storage=storage)
        stored = np.asarray(matrix[jnp.arange(3001)])
        for _ in range(20):  # repeat, because the timing of worker threads varies
            np.testing.assert_allclose(matrix.product(x), np.asarray(x) @ stored.T, rtol=0, atol=1)


def test_a_column_of_zeros_is_zero_in_int8():
    assert not np.asarray(quantize_matrix(jnp.zeros((64, 3)), rows=1, storage="int8").product(numbers(1, 64))).any()


@pytest.mark.parametrize(("storage", "bound"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
def test_logits_of_stored_weights_are_close_to_those_in_float32(storage, bound):
    """The bound is relative to the spread of the logits of two layers with random weights."""
    config = tiny(n_embd=64, n_head=2, predict_precision=storage)
    params, tokens = random_params(config), jnp.asarray([[5, 9, 2]])
    hidden, _ = model.forward(params, tokens, config=config)
    exact = np.asarray(model.logits(params, hidden, config=config))[..., : config.n_vocab]
    weights = Sampler(params, config).weights
    hidden, _ = model.forward(weights, tokens, config=config)
    found = np.asarray(model.logits(weights, hidden, config=config))[..., : config.n_vocab]
    assert np.abs(found - exact).max() <= bound * exact.std() * 4


@pytest.fixture(scope="module")
def trained():
    """Trains for 60 steps on noisy repeated words, after which half of the loss has been learned.

    Returns the configuration, the parameters, other texts, and the loss of these.
    """
    config = tiny(n_embd=64, n_head=2, n_layer=2, n_ctx=32)
    draw = np.random.default_rng(0)
    words = draw.integers(0, config.n_vocab, (20, 8))
    text = np.stack([np.concatenate(words[draw.integers(0, 20, 5)])[:33] for _ in range(96)])
    text = jnp.asarray(np.where(draw.random(text.shape) < 0.2, draw.integers(0, config.n_vocab, text.shape), text))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def mean_loss(params, tokens):
        total, count = model.loss(params, {"tokens": tokens}, None, config=config)
        return total / count

    @jax.jit
    def step(params, state, tokens):
        updates, state = optimizer.update(jax.grad(mean_loss)(params, tokens), state)
        return optax.apply_updates(params, updates), state

    params = param_spec.initialize(model.parameters(config), jax.random.key(0))
    state = optimizer.init(params)
    for i in range(60):
        params, state = step(params, state, text[i % 2 * 32 :][:32])
    return config, params, text[64:], float(mean_loss(params, text[64:]))


@pytest.mark.parametrize(("storage", "bound"), [("bfloat16", 0.002), ("int8", 0.005)])
def test_perplexity_of_a_trained_model_stays(trained, storage, bound):
    config, params, text, loss = trained
    assert loss < 0.75 * np.log(config.n_vocab)
    weights = Sampler(params, config.model_copy(update={"predict_precision": storage})).weights
    hidden, _ = model.forward(weights, text[:, :-1], config=config, implementation="native")
    scores = jax.nn.log_softmax(model.logits(weights, hidden, config=config))
    stored = -float(jnp.take_along_axis(scores, text[:, 1:, None], axis=-1).mean())
    assert abs(np.expm1(stored - loss)) < bound


def test_tokens_in_float32_are_those_of_xla(monkeypatch):
    config = tiny(n_ctx=64)
    params, prompts = random_params(config), [[5], [7, 8, 9]]
    ours = generate(Sampler(params, config), prompts, GREEDY, length=40)
    monkeypatch.setattr(cpu_kernels, "obstacle", lambda: "needs a C++ compiler (c++)")
    without = Sampler(params, config)
    assert "slower than it could be: the faster way needs a C++ compiler (c++)" in without.note
    assert generate(without, prompts, GREEDY, length=40) == ours
    with pytest.raises(UserError, match=r'predict_precision "int8" needs a C\+\+ compiler'):
        Sampler(params, tiny(n_ctx=64, predict_precision="int8"))


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_samples_of_stored_weights_do_not_depend_on_their_batch(storage):
    config = tiny(n_embd=64, n_head=2, n_ctx=64, precision="bfloat16", predict_precision=storage)
    sampler = Sampler(random_params(config), config)
    assert sampler.note == f"generating with weights in {storage}"
    four = generate(sampler, [[1, 2]] * 4, Settings(), length=30, seed=3)
    assert generate(sampler, [[1, 2]], Settings(), length=30, seed=3, first_row=2) == four[2:3]


def test_a_model_with_projections_and_a_head_of_its_own():
    config = tiny(n_embd=24, n_hidden=32, n_head=2, untied_head=True)
    params, tokens = random_params(config), jnp.asarray([[5, 9, 2]])
    hidden, _ = model.forward(params, tokens, config=config)
    weights = Sampler(params, config).weights
    found, _ = model.forward(weights, tokens, config=config)
    np.testing.assert_allclose(found, hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.logits(weights, found, config=config), model.logits(params, hidden, config=config), rtol=1e-4, atol=1e-4
    )
