#!/usr/bin/env bash
# JAX 0.10.1: jax.random.wald(key, mean), the inverse Gaussian distribution, gives negative numbers from 1,000 on.
#
# Expected: positive numbers: the distribution has no others, and says how long something takes. For a large mean the
#   median is 2.2 and hardly depends on it.
# Observed: the draw is a difference of two large float32 numbers. For the mean 1,000 some draws are 0 or negative,
#   for 10,000 a sixth of them, and for a million 44%, down to -841,728, with a median of about 300 instead of 2.2.
#   NumPy's Generator.wald of the same means is right. For means up to 100 JAX is right as well.
# Why it matters: waits and lifetimes are drawn from it, and positive priors; a logarithm of such a draw is NaN, and a
#   filter for positive values leaves a biased rest. The parameters are ordinary, and float32 is JAX's default.
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
for mean in (1, 100, 1_000, 10_000, 1_000_000):
    draws = np.asarray(jax.random.wald(jax.random.key(0), mean, (1_000_000,)), np.float64)
    of_numpy = np.random.default_rng(0).wald(mean, 1, 1_000_000)
    median = float(scipy.stats.invgauss(mean).median())
    found[mean] = float((draws <= 0).mean()), float(np.median(draws)) / median
    print(
        f"mean {mean:,}: {found[mean][0]:.2%} <= 0, the smallest {draws.min():,.4f}, median {np.median(draws):.3f}; "
        f"NumPy: {(of_numpy <= 0).mean():.2%}, median {np.median(of_numpy):.3f}; right: {median:.3f}"
    )
    assert (of_numpy > 0).all() and abs(np.median(of_numpy) / median - 1) < 0.02
for mean in (1, 100):
    assert found[mean][0] == 0 and abs(found[mean][1] - 1) < 0.02
assert found[1_000][0] > 0.001 and found[10_000][0] > 0.1 and found[1_000_000][0] > 0.4, "the behavior has changed"
assert found[1_000_000][1] > 50, "the behavior has changed"
PY
