#!/usr/bin/env bash
# rouge-score 0.1.2: a Russian answer that equals its reference scores 0, and "na ve caf" scores 1.0 against "naïve
#   café".
#
# Expected: equal texts have the score 1, and other words have less, in any language; else an error or a warning.
# Observed: the default tokenizer keeps a-z and 0-9 and takes all other characters for spaces, accents included. A
#   text of other letters has no words, which counts as 0. Of a mixed text only the Latin words and the digits count:
#   two Russian sentences with the same year in them and no common word score 1.0. Another tokenizer can be given.
# Why it matters: the average over a multilingual set measures how many digits and Latin names the answers share, and
#   a perfect model may have less than one that only copies the numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q rouge-score==0.1.2 numpy==2.4.6
PYTHONUTF8=1 "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from rouge_score import rouge_scorer

print("rouge-score", version("rouge-score"))
CASES = {
    ("a model", "a model"): 1.0,
    ("модель учится", "модель учится"): 0.0,
    ("naïve café", "na ve caf"): 1.0,
    ("модель учится с 2019", "поезд ушёл в 2019"): 1.0,
}
scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
for (reference, answer), seen in CASES.items():
    found = {name: float(score.fmeasure) for name, score in scorer.score(reference, answer).items()}
    print(f"{answer!r} for {reference!r}: {found}")
    assert set(found.values()) == {seen}, "the behavior has changed"
PY
