#!/usr/bin/env bash
# JAX 0.10.1: jax.scipy.stats.poisson.logpmf(1e6, 1e6) is -7.0; the right number is -7.83.
#
# Expected: a logarithm with the digits of float32, as of smaller means: for 100 it is right to 5 digits.
# Observed: the result is a difference of numbers as large as x * log(x), about 14 million, whose float32 neighbors
#   are 1 apart. gamma.logpdf has whole numbers as well; t.logpdf with a million degrees of freedom is -1.0 at 0,
#   where the normal distribution, its limit, has -0.919, so the density is 8% too small. nbinom is wrong in the first
#   digit after the point.
# Why it matters: Poisson is the model of counts, and counts of words, documents and tokens of a corpus are in the
#   millions. Comparing two likelihoods that differ by less than 1 compares rounding errors. Compute in float64, with
#   jax_enable_x64 or SciPy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import scipy
import scipy.stats
from jax.scipy import stats

print("jax", jax.__version__, "scipy", scipy.__version__)
MILLION = 1e6
cases = {
    "poisson, 100": (stats.poisson.logpmf(100.0, 100.0), scipy.stats.poisson.logpmf(100, 100)),
    "poisson, 10,000": (stats.poisson.logpmf(1e4, 1e4), scipy.stats.poisson.logpmf(1e4, 1e4)),
    "poisson, 1,000,000": (stats.poisson.logpmf(MILLION, MILLION), scipy.stats.poisson.logpmf(MILLION, MILLION)),
    "gamma, 1,000,000": (stats.gamma.logpdf(MILLION, MILLION), scipy.stats.gamma.logpdf(MILLION, MILLION)),
    "nbinom, 100,000": (stats.nbinom.logpmf(1e5, 1e5, 0.5), scipy.stats.nbinom.logpmf(1e5, 1e5, 0.5)),
    "t, 1,000,000": (stats.t.logpdf(0.0, MILLION), scipy.stats.t.logpdf(0, MILLION)),
}
errors = {}
for name, (found, right) in cases.items():
    errors[name] = abs(float(found) - float(right))
    print(f"{name}: {float(found):.6f}, right {float(right):.6f}")
assert errors["poisson, 100"] < 1e-3
assert errors["poisson, 1,000,000"] > 0.5 and errors["gamma, 1,000,000"] > 0.1, "the behavior has changed"
assert errors["nbinom, 100,000"] > 0.05 and errors["t, 1,000,000"] > 0.05, "the behavior has changed"
steps = [float(stats.poisson.logpmf(MILLION + 100 * count, MILLION)) for count in range(-20, 21)]
print("of counts in steps of 100:", steps[16:25])
assert all(value == round(value) for value in steps), "the behavior has changed"
PY
