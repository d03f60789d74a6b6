#!/usr/bin/env bash
# JAX 0.10.1: jax.scipy.special.poch(40, 1), which is 40, is NaN; from 36 on nearly every result is.
#
# Expected: poch(z, m) is z * (z + 1) * ... * (z + m - 1), so poch(40, 1) is 40, and poch(100, 0.5) is 9.99, as in
#   SciPy. These are small numbers, and float32 goes to 3.4e38.
# Observed: the quotient of two gamma functions is computed as such, and both are infinite from 36.04 on: infinite by
#   infinite is NaN. poch(35, 1) is infinite. The documentation restricts it to real numbers, and to nothing else.
#   exp(gammaln(z + m) - gammaln(z)) with JAX's gammaln gives 40.0.
# Why it matters: ratios of gamma functions are in Dirichlet and Chinese-restaurant models of topics and words, whose
#   arguments are counts. The gradient is NaN as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math

import jax
import jax.numpy as jnp
import scipy
import scipy.special
from jax.scipy import special

print("jax", jax.__version__, "scipy", scipy.__version__)
found = {}
for z, m in ((10.0, 1.0), (35.0, 1.0), (40.0, 1.0), (40.0, 3.0), (40.0, -1.0), (100.0, 0.5), (1000.0, 0.001)):
    found[z, m] = float(special.poch(z, m))
    right = float(scipy.special.poch(z, m))
    by_logarithms = float(jnp.exp(special.gammaln(z + m) - special.gammaln(z)))
    print(f"poch({z}, {m}): {found[z, m]}, SciPy {right:.6g}, by gammaln {by_logarithms:.6g}")
    assert math.isclose(by_logarithms, right, rel_tol=1e-2)
    if z >= 40:
        assert math.isnan(found[z, m]), "the behavior has changed"
assert math.isclose(found[10, 1], 10, rel_tol=1e-4) and math.isinf(found[35, 1]), "the behavior has changed"
gradient = float(jax.grad(special.poch)(40.0, 1.0))
print("gradient of poch(z, 1) at 40:", gradient, "(right: 1)")
assert math.isnan(gradient), "the behavior has changed"
PY
