#!/usr/bin/env bash
# simhash 2.1.2: `Simhash(text)` leaves out all signs and the case, so programs and formulas that differ in their
#   operators alone are the same document, and a text of signs is the empty one.
#
# Expected: distance 0 for equal texts, and a small one for texts that differ in a sign.
# Observed: a text is reduced to its letters and digits in lower case before it is hashed. "x += y * 2" and "x = -y / 2",
#   "C" and "C++", and ":-)" and "" have distance 0. The documentation calls `reg` what is a letter, and its only
#   alternative leaves the signs out as well; a list of tokens of one's own is hashed as it is.
# Why it matters: near duplicates of code and of mathematics are removed from training data by such fingerprints, and
#   what remains has one program for all those with the same names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q simhash==2.1.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from simhash import Simhash, SimhashIndex

print("simhash", version("simhash"))
PAIRS = [
    ("for i in range(10): x += y * 2", "for i in range(10): x = -y / 2"), ("1 + 1 = 2", "1 - 1 = 2"),
    ("C", "C++"), (":-)", ""), ("US", "us"),
]  # fmt: skip
for one, other in PAIRS:
    distance = Simhash(one).distance(Simhash(other))
    print(f"{one!r} and {other!r}: distance {distance}")
    assert distance == 0, "the behavior has changed"
index = SimhashIndex([("first", Simhash(PAIRS[0][0]))], k=0)
assert index.get_near_dups(Simhash(PAIRS[0][1])) == ["first"], "the behavior has changed"
assert Simhash(PAIRS[0][0].split()).distance(Simhash(PAIRS[0][1].split())) > 0
PY
