#!/usr/bin/env bash
# rapidfuzz 3.14.6: the edit distance of the labels [5, -1, 7] and [5, -2, 7] is 1 as a list, and 0 as a NumPy array.
#
# Expected: "the minimum number of insertions, deletions, and substitutions" of two sequences of hashable elements; -1
#   and -2 are different. NumPy's integers are hashable and equal to Python's, so list(array) and array.tolist() are
#   alike.
# Observed: elements are compared by their hash alone, and hash(-1) is -2 in Python. rapidfuzz knows that for Python's
#   integers and not for NumPy's, nor for floats: distance 0, similarity 1.0, no edit operations. editdistance 0.8.1 has
#   distance 0 for Python's integers too. The documentation of both does not say that hashes stand for the elements.
# Why it matters: -1 and -2 are the usual labels for padding, for "none" and for "unknown", and sequences of labels come
#   as arrays from NumPy or JAX. Error rates of taggers and aligners count one for the other as right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q rapidfuzz==3.14.6 editdistance==0.8.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import editdistance
import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

print({name: version(name) for name in ("rapidfuzz", "editdistance", "numpy")})
ONE, OTHER, THIRD = [5, -1, 7], [5, -2, 7], [5, -3, 7]
KINDS = {
    "list of int": list,
    "tuple of int": tuple,
    "array": np.array,
    "array of int8": lambda values: np.array(values, np.int8),
    "list of NumPy's": lambda values: list(np.array(values)),
    "list of float": lambda values: [float(value) for value in values],
}
for name, make in KINDS.items():
    one, other, third = make(ONE), make(OTHER), make(THIRD)
    found, edits = Levenshtein.distance(one, other), Levenshtein.editops(one, other).as_list()
    print(f"{name}: distance {found}, edits {edits}, ratio {fuzz.ratio(one, other):.0f}; "
          f"editdistance {editdistance.eval(one, other)}; -1 and -3: {Levenshtein.distance(one, third)}")
    assert found == (1 if name in ("list of int", "tuple of int") else 0), "the behavior has changed"
    assert editdistance.eval(one, other) == 0, "the behavior has changed"
    assert Levenshtein.distance(one, third) == editdistance.eval(one, third) == 1
PY
