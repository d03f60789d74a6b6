#!/usr/bin/env bash
# JAX 0.10.1: jax.scipy.stats.norm.isf(1e-8) is inf instead of 5.6, and cauchy.isf(1e-8) is -2.3e7 instead of 3.2e7.
#
# Expected: isf is there for small probabilities of the tail, where ppf(1 - q) has lost them: it is the inverse of sf,
#   says the documentation, and norm.sf(5.6) is 1e-8. SciPy's isf is right down to 1e-300, and JAX's own logistic.isf
#   and -norm.ppf(q), the same number by symmetry, are right as well.
# Observed: norm.isf is ppf(1 - q). In float32 it loses digits from 1e-5 on, and below 3e-8, where 1 - q is 1, it is
#   inf. cauchy.isf is twice the right number at 5e-8, and below that a large number of the other sign, as its sf and
#   ppf are rounded to multiples of 3e-8 too.
# Why it matters: thresholds for outliers and for corrected significance are such numbers: 0.05 by a vocabulary of
#   50,257 times 40 checkpoints is 2.5e-8. With inf nothing is ever an outlier, and with a negative threshold everything
#   is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jax==0.10.1 ml_dtypes==0.6.0 scipy==1.17.1 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.scipy.stats
import numpy as np
import scipy.stats

print("jax", jax.__version__, "scipy", scipy.__version__)
tails = np.array([1e-3, 5e-8, 1e-8, 1e-12], np.float32)
found, right = {}, {}
for name in ("norm", "cauchy", "logistic"):
    module = getattr(jax.scipy.stats, name)
    found[name] = np.asarray(module.isf(tails), np.float64)
    right[name] = getattr(scipy.stats, name).isf(tails.astype(np.float64))
    print(f"{name}.isf of {tails.tolist()}: {found[name].tolist()}, SciPy {right[name].tolist()}")
    assert np.isclose(found[name][0], right[name][0], rtol=1e-3)
    assert name == "cauchy" or np.allclose(module.sf(right[name]), tails, rtol=1e-2)
    assert name == "cauchy" or np.allclose(module.ppf(tails), -right[name], rtol=1e-3)
assert np.isinf(found["norm"][2:]).all() and (found["cauchy"][2:] < 0).all(), "the behavior has changed"
assert found["cauchy"][1] > 1.5 * right["cauchy"][1], "the behavior has changed"
assert np.allclose(found["logistic"], right["logistic"], rtol=1e-3)
PY
