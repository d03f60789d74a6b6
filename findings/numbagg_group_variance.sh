#!/usr/bin/env bash
# numbagg 0.9.6: `group_nanvar` loses all digits of values with a large mean, and can be negative, where `nanvar` of
#   the same values is exact.
#
# Expected: 1.6667 for the variance of four consecutive integers, also by groups.
# Observed: 1e6 .. 1e6 + 3 in float32 have -87381.336 by groups, so that `group_nanstd` is NaN; 1e4 .. 1e4 + 3 have 0.
#   In float64, 1e8 .. 1e8 + 3 have 2.6667 and 1e9 .. 1e9 + 3 have 0. Without groups float64 is right each time.
# Why it matters: Unix times, byte offsets and token counts are such values. flox, and with it the `groupby` of xarray, can
#   compute with these functions where numbagg is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numbagg==0.9.6 numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numbagg
import numpy as np

print("numbagg", version("numbagg"))
group = np.zeros(4, int)
for first, dtype, expected in (
    (1e4, np.float32, 0.0), (1e6, np.float32, -87381.336), (1e8, np.float64, 2.6667), (1e9, np.float64, 0.0)
):
    values = (first + np.arange(4)).astype(dtype)
    found = float(numbagg.group_nanvar(values, group)[0])
    whole = float(numbagg.nanvar(values.astype(np.float64)))
    print(f"{first:g} .. {first:g} + 3, {dtype.__name__}: {found:.4f} by groups, {whole:.4f} as a whole")
    assert abs(whole - 5 / 3) < 1e-9
    assert abs(found - expected) < 1e-3, "the behavior has changed"
values = (1e6 + np.arange(4)).astype(np.float32)
assert np.isnan(numbagg.group_nanstd(values, group)[0]), "the behavior has changed"
assert abs(numbagg.group_nanvar(np.arange(4.0), group)[0] - 5 / 3) < 1e-9
PY
