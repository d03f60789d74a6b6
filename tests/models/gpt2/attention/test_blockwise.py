"""Blockwise attention and its gradient, compared with the reference formula and JAX's gradient of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import draw, with_gradients

from models.gpt2.attention import blockwise, reference
from models.gpt2.model import attention

SHAPE = (2, 3, 8)  # batch, heads, head width


def arrays(n_tokens, dtype=jnp.float32):
    batch, heads, width = SHAPE
    return [draw(batch, n_tokens, heads, width, seed=seed, dtype=dtype) for seed in range(4)]


def segments(n_tokens):
    ends = jnp.array([[n_tokens // 3, n_tokens // 2], [1, n_tokens - 2]])
    return (jnp.arange(n_tokens) >= ends[:, :1]).astype(jnp.int32) + (jnp.arange(n_tokens) >= ends[:, 1:])


@pytest.mark.parametrize("n_tokens", [5, 128, 300, 1100])
@pytest.mark.parametrize("divided", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formula(n_tokens, divided):
    within = segments(n_tokens) if divided else None
    *inputs, dy = arrays(n_tokens)
    found, expected = (
        with_gradients(lambda q, k, v, n=name: attention(q, k, v, implementation=n, segments_BT=within), inputs, dy)
        for name in ("blocked", "reference")
    )
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)  # sums of up to 1,100 terms in a different order


def test_bfloat16_is_near_float32():
    *inputs, dy = arrays(300, jnp.bfloat16)
    exact, rough = (
        with_gradients(blockwise.attention, [x.astype(dtype) for x in inputs], dy)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for a, b in zip(exact, rough, strict=True):  # weights, their gradient, and the result are rounded by 2^-9 each
        assert jnp.linalg.norm(a - b.astype(jnp.float32)) < 2**-6 * jnp.linalg.norm(a)


def test_dropout_drops_its_share_the_same_as_the_plain_formula():
    *inputs, dy = arrays(300)
    key = jax.random.key(3)

    @jax.jit
    def ours(q, k, v):
        return blockwise.attention(q, k, v, dropout=0.25, key=key)

    def plain(q, k, v):  # drops the same elements
        return reference.attention(q, k, v, dropout=0.25, key=key)

    for found, expected in zip(with_gradients(ours, inputs, dy), with_gradients(plain, inputs, dy), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # If all values are 1, the result is the sum of the remaining weights divided by (1 - dropout).
    sums = ours(*inputs[:2], jnp.ones_like(inputs[2]))[..., 0]
    assert abs(float(sums.mean()) - 1) < 0.02
    assert float(sums.std()) > 0.01
    assert np.array_equal(ours(*inputs), ours(*inputs))


def test_half_of_the_scores_of_long_contexts_are_not_computed():
    assert blockwise.computed_share(64) == 1
    assert blockwise.computed_share(256) == 3 / 4
    assert blockwise.computed_share(8192) == 9 / 16
