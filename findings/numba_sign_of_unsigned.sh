#!/usr/bin/env bash
# numba 0.68.1: np.sign of a uint8 200 is 255 in a compiled function, and of 100 it is 1. NumPy gives 1 for both.
#
# Expected: np.sign, which numba lists among the supported functions, gives 0 or 1 for unsigned integers, as NumPy does.
# Observed: values in the upper half of the type get its largest value: 255 of uint8, 65,535 of uint16, and
#   18,446,744,073,709,551,615 of uint64. They are taken for negative, and the -1 wraps around. Comparisons such as
#   `values > 0` are right in the same function. No warning.
# Why it matters: np.sign counts the tokens or bytes that are not zero, and makes masks. The token 40,000 of GPT-2's
#   50,257, as the usual uint16, counts as 65,535 tokens; with tokens below 32,768, as in most tests, it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numba
import numpy as np

print("numba", numba.__version__, "numpy", np.__version__)


@numba.njit
def sign(values):
    """The same as np.sign, as one would expect."""
    return np.sign(values)


@numba.njit
def count(tokens):
    """How many tokens are not 0, by np.sign and by a comparison."""
    return np.sum(np.sign(tokens)), np.sum(tokens > 0)


for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
    most = np.iinfo(dtype).max
    values = np.array([0, 1, most // 2, most // 2 + 1, most], dtype)
    print(f"{dtype.__name__} {values.tolist()}: numba {sign(values).tolist()}, NumPy {np.sign(values).tolist()}")
    assert np.sign(values).tolist() == [0, 1, 1, 1, 1]
    assert sign(values).tolist() == [0, 1, 1, most, most], "the behavior has changed"
assert sign(np.array([-100, 0, 100], np.int8)).tolist() == [-1, 0, 1]
by_sign, by_comparison = count(np.array([0, 464, 40_000, 50_256], np.uint16))
print(f"tokens that are not 0: {by_sign} by np.sign, {by_comparison} by a comparison")
assert (by_sign, by_comparison) == (131_071, 3), "the behavior has changed"
PY
