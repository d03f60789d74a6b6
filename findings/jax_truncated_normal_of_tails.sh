#!/usr/bin/env bash
# JAX 0.10.1: all draws of jax.random.truncated_normal(key, 6, 7) are 6.9999995, the upper bound; their mean is 6.16.
#
# Expected: values that follow the normal density between the bounds, as the documentation says: in a tail most of
#   them lie next to the bound that is nearer to 0. SciPy's truncnorm gives the mean and standard deviation.
# Observed: both bounds are put through erf in float32, which is 1.0 from 5.5 standard deviations on: all draws are
#   the bound that is farther away, the least likely one. Between 5 and 6 there are 10 different values, and one in 18
#   is the upper bound. Without an upper bound these are 3.4e38, the largest float32. Negative bounds do the same. No
#   NaN and no infinity says so, and between -3 and 3 all is right.
# Why it matters: tails are drawn for outliers, for rejection of typical noise, and with bounds that a program
#   computes as (limit - mean) / std, where a small std gives large bounds. One weight of 3.4e38 is the end of a
#   model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np
import scipy
import scipy.stats

print("jax", jax.__version__, "scipy", scipy.__version__, "numpy", np.__version__)
found = {}
for low, high in ((-3, 3), (2, 3), (5, 6), (5, np.inf), (5.5, 6.5), (6, 7), (-20, -10)):
    draws = np.asarray(jax.random.truncated_normal(jax.random.key(0), low, high, (100_000,)), np.float64)
    true = scipy.stats.truncnorm(low, high)
    found[low, high] = draws.mean(), draws.std(), len(np.unique(draws)), draws.max()
    print(
        f"between {low} and {high}: mean {draws.mean():.7g}, std {draws.std():.7g}, {len(np.unique(draws))} values, "
        f"from {draws.min():.7g} to {draws.max():.7g}; right: mean {true.mean():.7g}, std {true.std():.7g}"
    )
for bounds in ((-3, 3), (2, 3)):
    true = scipy.stats.truncnorm(*bounds)
    assert abs(found[bounds][0] - true.mean()) < 0.01 and abs(found[bounds][1] - true.std()) < 0.01
for bounds in ((5.5, 6.5), (6, 7), (-20, -10)):
    assert found[bounds][2] == 1, "the behavior has changed"
assert found[6, 7][0] > 6.99 and found[-20, -10][0] < -19.99, "the behavior has changed"
assert found[5, 6][2] < 20 and found[5, np.inf][3] > 3e38, "the behavior has changed"
PY
