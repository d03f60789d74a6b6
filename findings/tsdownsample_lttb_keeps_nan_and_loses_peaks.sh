#!/usr/bin/env bash
# tsdownsample 0.1.5.1: one NaN near it makes LTTBDownsampler drop a peak of 50 among ones, and keep the NaN.
#
# Expected: the README has a table of downsamplers that omit NaN, "NaNs are ignored during downsampling", with
#   LTTBDownsampler in it. The algorithm takes the point of each bin that makes the largest triangle, a peak.
# Observed: a triangle with NaN has no size, no comparison with it is true, and the point of that bin is its first one
#   or the NaN itself; so is the next bin's, whose triangle begins there. MinMaxDownsampler, also in that row, keeps
#   the peak and omits NaN. Without the NaN, or with the NaN elsewhere, LTTB keeps the peak.
# Why it matters: curves of losses are reduced so for drawing (plotly-resampler), and NaN and spikes come together, as
#   a step overflows. The drawn curve is flat where training blew up.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tsdownsample==0.1.5.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from tsdownsample import LTTBDownsampler, MinMaxDownsampler

print("tsdownsample", version("tsdownsample"))


def kept(downsampler: object, nan_at: int | None) -> tuple[bool, bool]:
    """Whether the peak at 5,001 of 10,000 losses, and whether a NaN, is among the 100 points that are drawn."""
    losses = np.ones(10_000, np.float32)
    losses[5001] = 50
    if nan_at is not None:
        losses[nan_at] = np.nan
    points = losses[downsampler.downsample(losses, n_out=100)]
    return bool((points == 50).any()), bool(np.isnan(points).any())


for nan_at in (None, 100, 4990, 5000, 5002, 5010):
    found, other = kept(LTTBDownsampler(), nan_at), kept(MinMaxDownsampler(), nan_at)
    print(f"NaN at {nan_at}: (peak, NaN) kept {found} by LTTB, {other} by MinMax")
    assert other == (True, False)
    expected = {None: (True, False), 100: (True, True)}.get(nan_at, (False, True))
    assert found == expected, "the behavior has changed"
PY
