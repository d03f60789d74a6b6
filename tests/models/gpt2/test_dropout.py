"""Random generator of dropout: rates, and independence of elements, keys, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.gpt2.layers import dropped, keep_mask

SHAPE = (64, 32, 256)  # 524,288 elements: the standard deviation of a share is at most 7e-4


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.01])
def test_the_rate_is_kept_in_every_row_and_column(rate):
    mask = np.asarray(keep_mask(jax.random.key(0), rate, SHAPE))
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(mask.mean() - (1 - rate)) < 5 * deviation / np.sqrt(mask.size)
    for axis in range(3):
        shares = mask.mean(axis=axis)
        spread = deviation / np.sqrt(SHAPE[axis])
        # The deviations match those of independent samples.
        np.testing.assert_allclose((shares - (1 - rate)).std(), spread, rtol=0.1)
        assert abs(shares - (1 - rate)).max() < 7 * spread + 1 / SHAPE[axis]


@pytest.mark.parametrize("shift", [(0, 0, 1), (0, 0, 2), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 1, -1), (0, 0, 128)])
def test_neighbours_are_independent(shift):
    mask = np.asarray(keep_mask(jax.random.key(1), 0.5, SHAPE))
    correlation = np.corrcoef(mask.ravel(), np.roll(mask, shift, axis=(0, 1, 2)).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(mask.size)


def test_keys_give_independent_masks_and_one_key_the_same():
    key = jax.random.key(2)
    masks = [np.asarray(keep_mask(jax.random.fold_in(key, step), 0.5, SHAPE)).ravel() for step in range(4)]
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(masks[i], masks[j])[0, 1]) < 5 / np.sqrt(masks[0].size)
    assert np.array_equal(keep_mask(jax.random.fold_in(key, 0), 0.5, SHAPE).ravel(), masks[0])


def test_runs_of_kept_elements_have_the_lengths_of_coin_tosses():
    mask = np.asarray(keep_mask(jax.random.key(3), 0.5, SHAPE)).ravel()
    edges = np.flatnonzero(np.diff(mask)) + 1
    lengths = np.diff(edges)
    for length in range(1, 8):
        expected = len(lengths) / 2**length
        assert abs((lengths == length).sum() - expected) < 5 * np.sqrt(expected)


def test_what_is_kept_grows_so_that_the_mean_stays():
    x = jnp.ones(SHAPE)
    result = dropped(x, 0.25, jax.random.key(4))
    assert set(np.unique(result)) == {0, np.float32(1 / 0.75)}
    assert abs(float(result.mean()) - 1) < 5e-3
    assert dropped(x, 0.25, None) is x
    assert dropped(x, 0.0, jax.random.key(4)) is x


def test_a_part_has_the_mask_of_its_rows():
    key = jax.random.key(5)
    whole = keep_mask(key, 0.5, SHAPE)
    np.testing.assert_array_equal(keep_mask(key, 0.5, (64, 7, 100), rows=(20, 32)), whole[:, 20:27, :100])
