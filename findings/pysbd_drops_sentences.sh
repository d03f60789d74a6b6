#!/usr/bin/env bash
# pysbd 0.3.4: "First one. A song ♬ here. Third one." has two sentences; the one with the note is gone.
#
# Expected: with clean=False, the default, the text is kept (only clean=True modifies it, says an error message of the
#   library), so that the sentences joined are the text.
# Observed: the library marks full stops, quotation marks and line ends with rare characters while it works, and takes
#   those in the text for its own marks: a sentence with ♬, ♨, ☝ or ∯ is left out, one with ☉, ☄, ☈ or ☇ loses all
#   before it, and ȸ and ȹ are removed. No error and no warning. With char_span=True the same happens.
# Why it matters: pages about songs have ♬ on many lines, and recipes, chats and astronomy have the others. A corpus
#   that is cut into sentences for training or for counting loses exactly these, and a check by the number of
#   documents does not show it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pysbd==0.3.4
PYTHONUTF8=1 "$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import pysbd

print("pysbd", version("pysbd"))
lost = {}
for mark in "\u266a\u266c\u2668\u261d\u222f\u2609\u2604\u2608\u2607\u0238\u0239":
    text = f"First one. A song {mark} here. Third one."
    sentences = pysbd.Segmenter(language="en", clean=False).segment(text)
    spans = [span.sent for span in pysbd.Segmenter(language="en", clean=False, char_span=True).segment(text)]
    lost[mark] = len(text) - len("".join(sentences))
    print(f"U+{ord(mark):04X} {text!r}: {sentences}, spans: {spans}")
    assert (spans == sentences) or lost[mark]
assert lost["\u266a"] == 0
for mark in "\u266c\u2668\u261d\u222f":
    assert lost[mark] == len("A song x here. "), "the behavior has changed"
assert all(lost[mark] > 0 for mark in "\u2609\u2604\u2608\u2607\u0238\u0239"), "the behavior has changed"
PY
