#!/usr/bin/env bash
# JAX 0.10.1 and SciPy 1.17.1: softmax of [0, 250] as uint8 is [0.998, 0.002]: the smallest score gets the probability.
#
# Expected: the softmax of integers is that of the same numbers as floats, [0, 1] here. logsumexp of both libraries,
#   with the same documentation of its input ("array", "array_like"), converts integers.
# Observed: the maximum is subtracted in the type of the input, where 0 - 250 is 6, and then e^6 is taken. What comes
#   out is turned around, sums to 1 and looks like a softmax. log_softmax does the same. Where the differences are
#   small, as of [1, 2], 255 is too much for exp, and the result is [nan, 0]. int8 scores of -120 and 120 are turned
#   around in JAX and NaN in SciPy. uint16 and uint32 give NaN. JAX reports nothing; SciPy has a RuntimeWarning for the
#   NaN only. jax.nn.log_sigmoid(3) of uint8 is -253, and jax.nn.standardize is wrong, as they negate or subtract too.
# Why it matters: scores quantized to 8 bits (of a quality classifier or a retriever) and counts as weights for sampling
#   data sources are unsigned integers, and softmax(scores / 1) is right where softmax(scores) is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import jax
import numpy as np
import scipy
import scipy.special

print("jax", jax.__version__, "scipy", scipy.__version__)
nan = np.nan
cases = {
    "uint8": ([0, 250], [0.9975, 0.0025], [0.9975, 0.0025]),
    "int8": ([-120, 120], [1, 0], [nan, 0]),
    "uint16": ([0, 65_530], [0.9975, 0.0025], [0.9975, 0.0025]),
    "uint32": ([1, 2], [nan, 0], [nan, 0]),
    "int32": ([0, 250], [0, 1], [0, 1]),
    "float32": ([0, 250], [0, 1], [0, 1]),
}
for dtype, (scores, *expected) in cases.items():
    array = np.array(scores, dtype)
    found = [jax.nn.softmax(array), scipy.special.softmax(array)]
    sums = [float(jax.nn.logsumexp(array)), float(scipy.special.logsumexp(array))]
    found = [np.round(np.asarray(each, np.float64), 4).tolist() for each in found]
    print(f"softmax of {scores} as {dtype}: JAX {found[0]}, SciPy {found[1]}; logsumexp {sums[0]:g}, {sums[1]:g}")
    assert np.allclose(found, expected, atol=1e-3, equal_nan=True), "the behavior has changed"
    assert np.allclose(found[0], jax.jit(jax.nn.softmax)(array), atol=1e-3, equal_nan=True)
    assert np.allclose(sums, scipy.special.logsumexp(array.astype(np.float64)), rtol=1e-4)
array = np.array([1, 2], np.uint8)
found = [jax.nn.softmax(array).tolist(), scipy.special.softmax(array).tolist()]
print(f"softmax of [1, 2] as uint8: {found}")
assert np.array_equal(found, [[nan, 0]] * 2, equal_nan=True), "the behavior has changed"
array = np.array([0, 250], np.uint8)
found = [jax.nn.log_softmax(array).round(2).tolist(), scipy.special.log_softmax(array).round(2).tolist()]
sigmoid = float(jax.nn.log_sigmoid(np.uint8(3)))
print(f"log_softmax of [0, 250] as uint8: {found}; log_sigmoid of 3 as uint8: {sigmoid:.2f}")
assert np.allclose(found, [0, -6], atol=0.01) and sigmoid == -253, "the behavior has changed"
PY
