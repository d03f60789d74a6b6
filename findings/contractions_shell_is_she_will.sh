#!/usr/bin/env bash
# contractions 0.1.73: fix("the cause of the bug in this shell script") is "the because of the bug in this she will
#   script".
#
# Expected: "you're" becomes "you are". Words that are no contractions stay, and what is ambiguous is left alone.
# Observed: with the default, slang=True and leftovers=True, the words "cause", "shell", "shed" and "wont" have
#   entries, most of them contractions whose apostrophe was left out, and are replaced wherever they stand as a word.
#   "U.S." is "YOU.S.", for "U" is slang for "you". "ain't" is always "are not", and "she'd left" is "she would left".
# Why it matters: it is a usual step of cleaning scripts for text. A corpus loses nearly every "cause" as a noun and
#   every shell, so a model that is trained on it knows neither word, and never sees the United States as "U.S.". No
#   count of a pipeline shows it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q contractions==0.1.73
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import contractions

print("contractions", version("contractions"))
CASES = {
    "you're here": "you are here",
    "the cause of the bug in this shell script": "the because of the bug in this she will script",
    "a shed in the garden": "a she would in the garden",
    "the U.S. Senate": "the YOU.S. Senate",
    "as is his wont": "as is his will not",
    "I ain't there": "I are not there",
}
for text, seen in CASES.items():
    found = contractions.fix(text)
    print(f"{text!r}: {found!r}; without slang: {contractions.fix(text, slang=False)!r}")
    assert found == seen, "the behavior has changed"
PY
