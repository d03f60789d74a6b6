#!/usr/bin/env bash
# math-verify 0.9.0: the answer 9.1e-31 is right where 6.6e-34 is asked for, and 0.0000012 where it is 0.0000014.
#
# Expected: numbers are compared by their value, exactly or within a relative error; 3 and 3.1 are different.
# Observed: decimals are rounded to 6 places after the point first (float_rounding=6 of verify), so 0.0000012 is
#   0.0000014. For products with powers of ten a difference below about 10^-18 is chopped to 0, so constants of 10^-31
#   and 10^-34 are equal, and a wrong power of ten costs nothing. Such a number is not equal to 0. Exact powers,
#   10^{-7} and 10^{-8}, are told apart. float_rounding=40 together with numeric_precision=50 is right.
# Why it matters: constants and results of physics and chemistry are that small, in the questions of benchmarks and in
#   the rewards of reinforcement learning. A model is paid for any small number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q math-verify==0.9.0 \
  latex2sympy2_extended==1.11.0 sympy==1.14.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from math_verify import parse, verify

print("math-verify", version("math-verify"), "sympy", version("sympy"))
cases = {
    (r"$6.6 \times 10^{-34}$", r"$9.1 \times 10^{-31}$"): True,
    ("$0.0000012$", "$0.0000014$"): True,
    (r"$6.6 \times 10^{34}$", r"$9.1 \times 10^{31}$"): False,
    (r"$6.6 \times 10^{-34}$", "$0$"): False,
    ("$10^{-7}$", "$10^{-8}$"): False,
    ("$3$", "$3.1$"): False,
}
for (right, answer), expected in cases.items():
    first, second = parse(right), parse(answer)
    found, precise = verify(first, second), verify(first, second, float_rounding=40, numeric_precision=50)
    print(f"{right} and {answer}: {found}, with more digits {precise}; parsed {first[0]} and {second[0]}")
    assert found == expected, "the behavior has changed"
    assert not precise
PY
