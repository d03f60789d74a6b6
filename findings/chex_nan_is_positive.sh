#!/usr/bin/env bash
# chex 0.1.92: a NaN loss passes assert_scalar_positive, assert_scalar_non_negative and assert_scalar_negative.
#
# Expected: "Checks that a scalar is positive", says the docstring; no number is positive and negative, and NaN is
#   neither. assert_scalar_in of the same module refuses NaN.
# Observed: the functions raise if x <= 0, x < 0 or x >= 0, and each comparison with NaN is False. assert_scalar_in(x,
#   0, inf) raises, and so does assert_tree_all_finite.
# Why it matters: a loss, a learning rate or a norm of gradients is checked by assert_scalar_positive to find the step
#   that goes wrong, and NaN is the way in which it does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" chex==0.1.92
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import chex
import numpy as np

print("chex", chex.__version__)
checks = {
    "assert_scalar_positive": chex.assert_scalar_positive,
    "assert_scalar_non_negative": chex.assert_scalar_non_negative,
    "assert_scalar_negative": chex.assert_scalar_negative,
    "assert_scalar_in": lambda x: chex.assert_scalar_in(x, 0, float("inf")),
    "assert_tree_all_finite": chex.assert_tree_all_finite,
}


def passes(name: str, value: object) -> bool:
    """Whether a check accepts a value."""
    try:
        checks[name](value)
    except AssertionError:
        return False
    return True


for kind in (float, np.float64):
    found = {value: [name for name in checks if passes(name, kind(value))] for value in ("nan", "2", "-2")}
    for value, names in found.items():
        print(f"{kind.__name__} {value} passes", *names)
    assert found["nan"] == [name for name in checks if name.endswith("tive")], "the behavior has changed"
    assert found["2"] == [name for name in checks if name != "assert_scalar_negative"]
    assert found["-2"] == ["assert_scalar_negative", "assert_tree_all_finite"]
PY
