"""Hand-written gradients compared with JAX's gradients of the reference formulas in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import draw, draw_tokens, with_gradients

from models.gpt2 import layers, ops

N_VOCAB, PADDED = 50, 64


def plain_layer_norm(x, gain, bias):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain + bias


def plain_nll(hidden, head):
    scores = jnp.where(jnp.arange(PADDED) < N_VOCAB, hidden @ head.T, -jnp.inf)
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), TARGETS[..., None], axis=-1)[..., 0]


TARGETS = draw_tokens(N_VOCAB, 2, 6)
CASES = {
    "dense": (
        lambda x, w, b: layers.dense(layers.XLA, "btd,df->btf", x, w, b),
        lambda x, w, b: x @ w + b,
        [draw(2, 6, 16), draw(16, 24, seed=1), draw(24, seed=2)],
    ),
    "dense to several dims": (
        lambda x, w, b: layers.dense(layers.XLA, "btd,dchk->btchk", x, w, b),
        lambda x, w, b: (x @ w.reshape(16, -1)).reshape(2, 6, 3, 2, 4) + b,
        [draw(2, 6, 16), draw(16, 3, 2, 4, seed=1), draw(3, 2, 4, seed=2)],
    ),
    "dense of several dims": (
        lambda x, w, b: layers.dense(layers.XLA, "bthk,hkd->btd", x, w, b),
        lambda x, w, b: x.reshape(2, 6, 8) @ w.reshape(8, 16) + b,
        [draw(2, 6, 2, 4), draw(2, 4, 16, seed=1), draw(16, seed=2)],
    ),
    "gelu": (ops.gelu, lambda x: jax.nn.gelu(x, approximate=True), [3 * draw(2, 6, 16)]),
    "layer_norm": (
        ops.layer_norm,
        plain_layer_norm,
        [draw(2, 6, 16) + 2, draw(16, seed=1), draw(16, seed=2)],
    ),
    "nll": (
        lambda hidden, head: ops.nll(hidden, head, TARGETS, N_VOCAB),
        plain_nll,
        [draw(2, 6, 16), draw(PADDED, 16, seed=1)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_formula(name):
    ours, plain, arguments = CASES[name]
    dy = draw(*plain(*arguments).shape, seed=5)
    for found, expected in zip(
        with_gradients(ours, arguments, dy),
        with_gradients(plain, arguments, dy),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums in a different order


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_near_float32(name):
    """Both sides get inputs rounded to bfloat16 (8 bits). The remaining error is rounding of the result, of the
    incoming gradient, and for nll of the gradient of the scores: 2^-8 each, in sums of up to 64 terms.
    """
    ours, plain, arguments = CASES[name]
    rounded = [argument.astype(jnp.bfloat16).astype(jnp.float32) for argument in arguments]
    low = [
        a.astype(jnp.bfloat16) if i == 0 or (name.startswith("dense") and i == 1) else a for i, a in enumerate(rounded)
    ]
    dy = draw(*plain(*rounded).shape, seed=5)
    for found, expected in zip(with_gradients(ours, low, dy), with_gradients(plain, rounded, dy), strict=True):
        size = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=2**-6 * size)


def test_padding_of_the_vocabulary_gets_no_gradient():
    arguments = CASES["nll"][2]
    gradient = jax.grad(lambda head: ops.nll(arguments[0], head, TARGETS, N_VOCAB).sum())(arguments[1])
    assert not np.any(gradient[N_VOCAB:])
    assert np.any(gradient[:N_VOCAB])


def test_no_product_of_the_gradient_is_in_float32():
    """GPUs compute float32 products many times more slowly."""
    x, w, b = (draw(2, 8, 16, dtype=jnp.bfloat16), draw(PADDED, 16), draw(16))

    def loss(x, w):
        hidden = layers.dense(layers.XLA, "btd,de->bte", x, jnp.eye(16, dtype=jnp.bfloat16), b)
        return ops.nll(hidden, w, TARGETS[:, :1].repeat(8, 1), N_VOCAB).sum()

    text = jax.jit(jax.grad(loss, (0, 1))).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 5
    for line in products:
        operands = line.split(" : ")[-1].split("->")[0]
        assert operands.count("bf16") == 2, line
