"""Matrices for generation on CPUs against NumPy in float64, and generation with them against XLA's."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_gpt2 import random_params, tiny
from test_sample import GREEDY, generate

from models.gpt2 import few_rows, gpt2, kernels
from models.gpt2.few_rows import row_matrix
from models.gpt2.sample import Sampler, Settings
from runtime.errors import UserError

# Largest error of a number that is stored so: of the number by rounding to 24 or 8 bits, or of its block's largest.
STEP = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "int8": 1 / 254}


@pytest.fixture(autouse=True)
def _compiled():
    if obstacle := kernels.obstacle():
        pytest.skip(obstacle)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("storage", STEP)
@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 64, 1), (3, 100, 7), (8, 256, 33), (16, 64, 5), (40, 100, 9)]
)
def test_products_are_those_of_the_stored_numbers(storage, rows, width, outputs):
    x, w = numbers(rows, width), numbers(width, outputs, seed=1)
    matrix = row_matrix(w, rows=1, storage=storage)
    stored = np.asarray(matrix[jnp.arange(outputs)], np.float64).T
    largest = np.abs(w).max() if storage == "int8" else np.abs(w)  # of a block at most the matrix's
    assert (np.abs(stored - np.asarray(w)) <= STEP[storage] * largest * 1.001).all()
    exact = np.asarray(x, np.float64) @ stored
    # Sums of `width` products in float32; many rows are multiplied in bfloat16 where the matrix is not float32.
    in_bfloat16 = rows > few_rows.MOST_ROWS and storage != "float32"
    tolerance = (2.0**-7 if in_bfloat16 else 2.0**-23 * 4) * np.sqrt(width)
    np.testing.assert_allclose(matrix.product(x), exact, atol=4 * tolerance, rtol=0)


def test_dims_of_inputs_and_outputs_are_kept():
    x, w = numbers(2, 1, 4, 16), numbers(4, 16, 3, 5)
    y = row_matrix(w, rows=2, storage="float32").product(x)
    np.testing.assert_allclose(y, np.einsum("abhk,hkcd->abcd", x, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("storage", STEP)
def test_a_row_has_the_same_bits_whatever_is_beside_it(storage):
    x = numbers(few_rows.MOST_ROWS, 192)
    matrix = row_matrix(numbers(192, 50, seed=1), rows=1, storage=storage)
    together = np.asarray(matrix.product(x))
    for rows in range(1, few_rows.MOST_ROWS):
        np.testing.assert_array_equal(matrix.product(x[:rows]), together[:rows])
    np.testing.assert_array_equal(matrix.product(x[5:6]), together[5:6])


def test_large_matrices_are_shared_among_threads_without_a_gap():
    x, w = numbers(2, 512), numbers(512, 3001, seed=1)
    for storage in STEP:
        matrix = row_matrix(w, rows=1, storage=storage)
        stored = np.asarray(matrix[jnp.arange(3001)])
        for _ in range(20):  # helpers come early or late
            np.testing.assert_allclose(matrix.product(x), np.asarray(x) @ stored.T, rtol=1e-3, atol=1e-3)


def test_a_column_of_zeros_is_zero_in_int8():
    assert not np.asarray(row_matrix(jnp.zeros((64, 3)), rows=1, storage="int8").product(numbers(1, 64))).any()


@pytest.mark.parametrize(("storage", "bound"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
def test_logits_of_stored_weights_are_close_to_those_in_float32(storage, bound):
    """The bound is relative to the spread of the logits; of two layers of random weights."""
    config = tiny(n_embd=64, n_head=2, predict_precision=storage)
    params, tokens = random_params(config), jnp.asarray([[5, 9, 2]])
    hidden, _ = gpt2.forward(params, tokens, config=config)
    exact = np.asarray(gpt2.logits(params, hidden, config=config))[..., : config.n_vocab]
    weights = Sampler(params, config)._weights
    hidden, _ = gpt2.forward(weights, tokens, config=config)
    found = np.asarray(gpt2.logits(weights, hidden, config=config))[..., : config.n_vocab]
    assert np.abs(found - exact).max() <= bound * exact.std() * 4


def test_tokens_in_float32_are_those_of_xla(monkeypatch):
    config = tiny(n_ctx=64)
    params, prompts = random_params(config), [[5], [7, 8, 9]]
    ours = generate(Sampler(params, config), prompts, GREEDY, length=40)
    monkeypatch.setattr(kernels, "obstacle", lambda: "needs a C++ compiler (c++)")
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
    hidden, _ = gpt2.forward(params, tokens, config=config)
    weights = Sampler(params, config)._weights
    found, _ = gpt2.forward(weights, tokens, config=config)
    np.testing.assert_allclose(found, hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gpt2.logits(weights, found, config=config), gpt2.logits(params, hidden, config=config), rtol=1e-4, atol=1e-4
    )
