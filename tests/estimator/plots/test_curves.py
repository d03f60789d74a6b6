"""Curves computed from noisy points."""

import math

import numpy as np
import pytest

from estimator.plots import curves


def test_smoothing_lags_neither_behind_a_slope_nor_at_the_ends():
    line = np.linspace(8, 2, 50)
    np.testing.assert_allclose(curves.smoothed(line, weight=0.9), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert curves.smoothed(noise, weight=0.9).std() < 0.4 * noise.std()


def test_smoothing_leaves_gaps_open_and_unfelt():
    values = np.linspace(8, 2, 50)
    values[[0, 20, 49]] = math.nan
    np.testing.assert_allclose(curves.smoothed(values, weight=0.8), values)
    alone = np.array([math.nan, 3.0, math.nan])
    np.testing.assert_allclose(curves.smoothed(alone, weight=0.8), alone)


def test_a_curve_that_falls_fast_at_first_is_not_smoothed_away():
    values = 2 + 8 / np.arange(1, 200)
    curve = curves.smoothed_curve(values, weight=0.9)
    assert curve[0] == values[0]
    np.testing.assert_allclose(curve, values, rtol=0.05)
    noise = np.random.default_rng(0).normal(size=400)
    assert curves.smoothed_curve(noise, weight=0.9)[40:].std() < 0.4 * noise.std()
    np.testing.assert_array_equal(curves.smoothed_curve(values, weight=0.0), values)


@pytest.mark.parametrize("log", [False, True])
def test_bins_keep_means_extremes_and_gaps(log):
    x = np.arange(1, 10_001.0)
    y = np.random.default_rng(0).normal(size=x.size)
    y[::7] = math.nan
    y[5000] = 99.0
    few = curves.binned(x, y, log=log, points=100)
    assert few.x.size <= 100
    assert np.all(np.diff(few.x) > 0)
    assert np.nanmax(few.high) == 99
    assert np.nanmin(few.low) == np.nanmin(y)
    edges = (np.log(x) / np.log(x[-1]) if log else (x - 1) / (x[-1] - 1)) * 100
    last = y[np.minimum(edges.astype(int), 99) == 99]
    assert few.mean[-1] == pytest.approx(np.nanmean(last))
    same = curves.binned(x[:50], y[:50], log=log, points=100)
    np.testing.assert_array_equal(same.mean, y[:50])


def test_a_band_spans_the_seeds_where_all_have_values():
    x = np.arange(1, 11.0)
    band = curves.band([(x, x), (x[:6], x[:6] + 2), (x[1:], x[1:] + 4)])
    np.testing.assert_array_equal(band.x, [2, 3, 4, 5, 6])  # steps where every run has a point
    np.testing.assert_allclose(band.mean, band.x + 2)
    np.testing.assert_allclose(band.high - band.low, 4)
    many = np.linspace(1, 10, 10 * curves.GRID)
    assert curves.band([(many, many), (x, x)]).x.size == curves.GRID
    assert curves.band([(x, x * math.nan)]).x.size == 0
