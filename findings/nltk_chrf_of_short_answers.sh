#!/usr/bin/env bash
# nltk 3.10.4: the chrF of the right answer "yes" is 0.5, of "42" it is 0.33, and of "7" it is 0.17. sacrebleu gives
#   100.
#
# Expected: an answer that equals the reference has the best score, 1.
# Observed: sentence_chrf averages the scores of character n-grams from 1 to 6, and counts an n longer than the text
#   as 0. A text of k letters has at most k / 6. corpus_chrf averages such scores. From 6 characters on a right answer
#   has 1. sacrebleu 2.6.0 leaves out the n that no text has.
# Why it matters: the answers of arithmetic, of yes-or-no questions and of names are short. A model that is right in
#   all of them has 0.4 here, and one that repeats the question before the answer may have more. Scores of sets with
#   answers of different lengths cannot be compared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q nltk==3.10.4 sacrebleu==2.6.0
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sacrebleu
from nltk.translate.chrf_score import corpus_chrf, sentence_chrf

print("nltk", version("nltk"), "sacrebleu", version("sacrebleu"))
for text in ("7", "42", "yes", "Rome", "Paris", "Berlin", "a longer answer"):
    found, right = sentence_chrf(text, text), sacrebleu.sentence_chrf(text, [text]).score
    print(f"{text!r}: nltk {found:.3f}, sacrebleu {right:.1f}")
    assert abs(right - 100) < 1e-6
    assert abs(found - min(len(text), 6) / 6) < 1e-6, "the behavior has changed"
answers = ["7", "42", "yes"]
found = corpus_chrf(answers, answers)
print(f"corpus: {found:.3f}")
assert abs(found - 1 / 3) < 1e-6, "the behavior has changed"
PY
