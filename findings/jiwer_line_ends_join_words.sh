#!/usr/bin/env bash
# jiwer 4.0.0: a single line end or tab joins two words for the word error rate, and two of them separate words.
#
# Expected: a line end or a tab between two words separates them, as with str.split() and in every other count of
#   words; or no white space but the space does.
# Observed: two or more characters of white space, of any kind, become one space, and then the texts are split at
#   spaces. A single line end or tab stays inside of a "word": "one\ntwo" is one word, "one\n\ntwo" and "one \ntwo"
#   are two. If the reference has its words on lines, a perfect answer has a rate above 1. mer and wil do it as well,
#   and so does a single no-break space.
# Why it matters: texts of language models and transcripts have line ends. A model that answers on lines is rated as
#   one with many wrong words, and one that leaves an empty line between them as perfect.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jiwer==4.0.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import jiwer

print("jiwer", version("jiwer"))
WORDS = ["the", "boats", "lie", "in", "the", "harbor"]
found = {}
for separator in (" ", "  ", "\n", "\n\n", " \n", "\t", "\t\t", "\u00a0"):
    text = separator.join(WORDS)
    assert text.split() == WORDS
    answer, reference = jiwer.wer(" ".join(WORDS), text), jiwer.wer(text, " ".join(WORDS))
    found[separator] = answer, reference
    print(f"separated by {separator!r}: rate {answer:.2f} as the answer, {reference:.2f} as the reference")
for separator in (" ", "  ", "\n\n", " \n", "\t\t"):
    assert found[separator] == (0, 0), "the behavior has changed"
for separator in ("\n", "\t", "\u00a0"):
    assert found[separator] == (1, 6), "the behavior has changed"
half = jiwer.wer("the boats lie\nin the harbor".replace("\n", " "), "the boats lie\nin the harbor")
print(f"one line end among six words: {half:.2f}")
assert half > 0.3, "the behavior has changed"
PY
