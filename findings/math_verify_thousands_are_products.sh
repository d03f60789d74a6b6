#!/usr/bin/env bash
# math-verify 0.9.0: "$100\,000$" is 0, "$12\,345$" is 357, and "$0.\overline{3}$" is 0.
#
# Expected: a thin space separates thousands, as the international system of units and most LaTeX texts write them:
#   100000. "100,000" is read so, also as "100{,}000" in LaTeX. 0.333... is 1/3.
# Observed: the parts become factors, 100 * 0 ("000" is 0), or terms, 12 + 345. "\ ", "\;" and a period with an
#   overline or a dot do the same. verify then takes "0" for right, and "100000" for wrong. No warning, and the
#   extracted text, the second part of the result, looks right. Without the dollars "100 000" is 100000.
# Why it matters: one function is used for the answers of a data set and for those of a model. An item whose reference
#   has such a number is never solved, a model that writes numbers so loses what it knows, and a reward is paid for 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q math-verify==0.9.0 \
  latex2sympy2_extended==1.11.0 sympy==1.14.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import sympy
from math_verify import parse, verify

print("math-verify", version("math-verify"), "latex2sympy2_extended", version("latex2sympy2_extended"))
cases = {
    r"$100\,000$": (100_000, 0),
    r"$100\;000$": (100_000, 0),
    r"$100\ 000$": (100_000, 0),
    r"$12\,345$": (12_345, 357),
    r"$0.\overline{3}$": ("1/3", 0),
    r"$0.\dot{3}$": ("1/3", 0),
    "$100,000$": (100_000, 100_000),
    r"$100{,}000$": (100_000, 100_000),
    "100 000": (100_000, 100_000),
}
for text, (right, expected) in cases.items():
    found = parse(text)
    with_right, with_expected = verify(found, parse(str(right))), verify(found, parse(str(expected)))
    print(f"{text}: {found}, equal to {right}: {with_right}, equal to {expected}: {with_expected}")
    assert sympy.simplify(found[0]) == expected and with_expected, "the behavior has changed"
    assert with_right == (right == expected), "the behavior has changed"
PY
