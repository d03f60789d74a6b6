"""From many noisy points to curves: binning, smoothing, and the band of several seeds."""

import math
from typing import NamedTuple

import numpy as np

POINTS = 1200  # of a curve: more than a figure shows
GRID = 400  # points of a mean over seeds


class Binned(NamedTuple):
    """Points of a curve in bins along x: their mean x and y, and the range of y. NaN counts as absent."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def binned(x: np.ndarray, y: np.ndarray, *, log: bool = False, points: int = POINTS) -> Binned:
    """At most `points` bins of equal width, on a logarithmic axis if `log`. x: ascending."""
    order = np.argsort(x, kind="stable")
    order = order[x[order] > 0] if log else order[np.isfinite(x[order])]
    x, y = x[order], y[order]
    if x.size <= points:
        return Binned(x, y, y, y)
    at = np.log(x) if log else x
    bins = np.minimum((at - at[0]) / max(at[-1] - at[0], 1e-12) * points, points - 1).astype(np.int64)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    finite = np.isfinite(y)
    count = np.add.reduceat(finite, starts, dtype=np.float64)
    total = np.add.reduceat(np.where(finite, y, 0.0), starts)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    low, high = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    return Binned(np.add.reduceat(x, starts) / np.diff(np.append(starts, x.size)), mean, low, high)


def default_weight(points: int) -> float:
    """Smoothing of a curve with this many points; a short one has no noise to spare."""
    return float(np.clip(1 - 20 / max(points, 1), 0, 0.9))


def smoothed(values: np.ndarray, *, weight: float) -> np.ndarray:
    """Local linear regression in which a value at distance d has weight weight^d.

    It looks in both directions and fits slopes, so it does not lag behind a falling loss or at the ends. NaN stays NaN
    and has no weight.
    """
    if not weight or values.size < 3:
        return values
    known = np.isfinite(values)
    reach = min(values.size - 1, math.ceil(math.log(1e-3) / math.log(weight)))
    distance = np.arange(-reach, reach + 1)
    kernel = weight ** np.abs(distance)

    def moment(sequence: np.ndarray, power: int) -> np.ndarray:
        return np.correlate(np.pad(sequence, reach), kernel * distance**power, "valid")

    mass, first, second = (moment(known.astype(np.float64), power) for power in range(3))
    total, product = (moment(np.where(known, values, 0.0), power) for power in range(2))
    determinant = mass * second - first**2
    alone = determinant < 1e-9
    line = (second * total - first * product) / np.where(alone, 1.0, determinant)
    return np.where(known & ~alone, line, values)


def smoothed_curve(values: np.ndarray, *, weight: float) -> np.ndarray:
    """`smoothed`, with a window that grows from nothing at the first point, where a loss falls too fast for a wide one.

    weight: of the widest window.
    """
    widest = 1 / (1 - weight)
    width = np.minimum(widest, 1 + np.arange(values.size) / 10)
    levels = np.append(2.0 ** np.arange(math.ceil(math.log2(widest))), widest)  # doubling
    results = np.stack([smoothed(values, weight=1 - 1 / level) for level in levels])
    place = np.interp(np.log(width), np.log(levels), np.arange(levels.size))
    below = np.minimum(place.astype(np.int64), max(levels.size - 2, 0))
    above = np.minimum(below + 1, levels.size - 1)
    column = np.arange(values.size)
    return results[below, column] + (place - below) * (results[above, column] - results[below, column])


def band(curves: list[tuple[np.ndarray, np.ndarray]], *, log: bool = False) -> Binned:
    """Mean and range of several (x, y), where all of them have values: one that ended early ends the band.

    Its points are theirs, or a grid if these are many.
    """
    curves = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in curves]
    curves = [(x, y) for x, y in curves if x.size]
    if not curves:
        return Binned(*(np.array([]) for _ in Binned._fields))
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(low <= grid) & (grid <= high)] if low < high else np.array([high])
    if grid.size > GRID:
        grid = np.geomspace(low, high, GRID) if log and low > 0 else np.linspace(low, high, GRID)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    return Binned(grid, values.mean(0), values.min(0), values.max(0))
