#!/usr/bin/env bash
# pytrec_eval-terrier 0.5.11: scores are rounded to float32 before documents are ranked, and of equal ones the document
#   with the later name comes first.
#
# Expected: a document with a score of 0.500000001 is ranked before one with 0.5: Python's numbers have 64 bits.
# Observed: both are 0.5, and "d2" comes before "d1" because of its name, so the mean average precision is 0.5 instead of
#   1. 16777217 and 16777216 are equal, too. ranx gives 1 for the same run.
# Why it matters: log-likelihoods of long documents and probabilities near 1 differ in such digits. Results depend on
#   how documents are named, and no two programs agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pytrec_eval-terrier==0.5.11 ranx==0.3.21 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import pytrec_eval
from ranx import Qrels, Run, evaluate

print("pytrec_eval-terrier", version("pytrec_eval-terrier"), "and ranx", version("ranx"))


def precision(best: str, scores: dict[str, float]) -> tuple[float, float]:
    """The mean average precision by pytrec_eval and by ranx, where one document is right."""
    other = next(name for name in scores if name != best)
    judged = {"q": {best: 1, other: 0}}
    found = pytrec_eval.RelevanceEvaluator(judged, {"map"}).evaluate({"q": scores})["q"]["map"]
    return found, float(evaluate(Qrels(judged), Run({"q": scores}), "map"))


for high, low, expected in ((0.500000001, 0.5, 0.5), (16777217.0, 16777216.0, 0.5), (0.6, 0.5, 1.0)):
    found = precision("d1", {"d1": high, "d2": low})
    print(f"d1 {high}, d2 {low}, d1 is right: {found}")
    assert found == (expected, 1.0), "the behavior has changed"
found = precision("d3", {"d3": 0.500000001, "d2": 0.5})
print(f"d3 0.500000001, d2 0.5, d3 is right: {found}")
assert found == (1.0, 1.0), "the behavior has changed"
PY
