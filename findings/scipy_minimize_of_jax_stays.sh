#!/usr/bin/env bash
# SciPy 1.17.1 with JAX 0.10.1: minimize of a JAX function "terminated successfully" at the point where it began.
#
# Expected: minimize(lambda x: jnp.sum((x - 3) ** 2), [0, 0]) finds [3, 3], as with np.sum, or says that it cannot: the
#   message and `success` tell whether it converged.
# Observed: without `jac`, gradients are differences with a step of 1.5e-8, right for float64. JAX computes in float32,
#   where such a step changes nothing, so the gradient is 0 and BFGS (the default), L-BFGS-B, CG, SLSQP, TNC and
#   trust-constr return the start with success=True, after 0 or 1 iterations. Functions of NumPy in float32 are alike.
#   curve_fit and least_squares of such functions look at the type of the residuals, and work. The documentation gives
#   the step and has no word on float32.
# Why it matters: a scaling law, a temperature or a calibration fitted to losses of a JAX model is reported with the
#   starting values, as converged. Give jac=jax.grad(function), or a step such as options={"eps": 1e-3}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q scipy==1.17.1 jax==0.10.1 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.optimize import least_squares, minimize

print("scipy", scipy.__version__, "jax", jax.__version__, "numpy", np.__version__)


def distance(x: jax.Array) -> jax.Array:
    """0 at [3, 3]."""
    return jnp.sum((x - 3) ** 2)


def same(x: np.ndarray) -> np.ndarray:
    """The same with NumPy."""
    return np.sum((x - 3) ** 2)


for method in ("BFGS", "L-BFGS-B", "CG", "SLSQP", "TNC", "trust-constr"):
    found, right = (minimize(function, np.zeros(2), method=method) for function in (distance, same))
    print(f"{method}: JAX {found.x.tolist()}, {found.success}, {found.message!r}; NumPy {right.x.round(3).tolist()}")
    assert found.success and np.array_equal(found.x, [0, 0]), "the behavior has changed"
    assert right.success and np.allclose(right.x, 3, atol=1e-3)
assert np.array_equal(minimize(distance, np.zeros(2)).x, [0, 0]), "the behavior has changed"
narrow = minimize(lambda x: same(x.astype(np.float32)), np.zeros(2))
assert narrow.success and np.array_equal(narrow.x, [0, 0]), "the behavior has changed"
assert np.allclose(minimize(distance, np.zeros(2), jac=jax.grad(distance)).x, 3, atol=1e-3)
assert np.allclose(minimize(distance, np.zeros(2), options={"eps": 1e-3}).x, 3, atol=1e-2)
assert np.allclose(least_squares(lambda x: jnp.asarray(x) - 3, np.zeros(2)).x, 3, atol=1e-2)
PY
