#!/usr/bin/env bash
# JAX 0.10.1: jax.scipy.stats.uniform.pdf(NaN) is 1.0, truncnorm.cdf(NaN) is 1.0, and poisson.logpmf(NaN, 3) is -inf.
#
# Expected: NaN, as SciPy gives for each of them, and as JAX's norm, expon, t, cauchy and logistic do.
# Observed: comparisons with the bounds are used to choose the result, and a NaN that is neither below nor above
#   counts as inside (uniform, truncnorm) or outside (gamma, binom, poisson, wrapcauchy). The result is an ordinary
#   number, or the -inf of an impossible value.
# Why it matters: a NaN in a parameter or a sample is found by its spreading to the loss. With a uniform prior on it
#   the loss stays finite; with gamma it is inf, which is taken for a value out of range.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math
import warnings

import jax
import scipy
import scipy.stats
from jax.scipy import stats

print("jax", jax.__version__, "scipy", scipy.__version__)
warnings.simplefilter("ignore")
cases = {
    ("norm", "pdf"): (), ("expon", "pdf"): (), ("t", "pdf"): (2.5,), ("cauchy", "cdf"): (),
    ("uniform", "pdf"): (), ("uniform", "logpdf"): (), ("uniform", "cdf"): (),
    ("truncnorm", "cdf"): (-1.0, 2.0), ("truncnorm", "sf"): (-1.0, 2.0),
    ("gamma", "pdf"): (2.0,), ("gamma", "logpdf"): (2.0,),
    ("poisson", "logpmf"): (3.0,), ("binom", "logpmf"): (10, 0.3),
}
found = {}
for (distribution, method), parameters in cases.items():
    functions = (getattr(getattr(module, distribution), method) for module in (stats, scipy.stats))
    result, of_scipy = (float(function(math.nan, *parameters)) for function in functions)
    print(f"{distribution}.{method}(NaN): JAX {result}, SciPy {of_scipy}")
    assert math.isnan(of_scipy)
    found[distribution, method] = result
assert all(math.isnan(found[name]) for name in list(found)[:4])
expected = {
    ("uniform", "pdf"): 1, ("uniform", "logpdf"): 0, ("uniform", "cdf"): 0, ("truncnorm", "cdf"): 1,
    ("truncnorm", "sf"): 1, ("gamma", "pdf"): 0, ("gamma", "logpdf"): -math.inf, ("poisson", "logpmf"): -math.inf,
    ("binom", "logpmf"): -math.inf,
}
assert {name: found[name] for name in expected} == expected, "the behavior has changed"
PY
