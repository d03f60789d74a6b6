#!/usr/bin/env bash
# sacremoses 0.2.0: `MosesPunctNormalizer` writes a point where a no-break space groups digits: "10 000" becomes
#   "10.000" in English, and 3 1/2 becomes "3.1/2".
#
# Expected: ten thousand stays ten thousand: the space is kept, made a plain one, or made a comma.
# Observed: with "en" a no-break space between digits becomes ".", English's decimal point. With "de", "fr", "es" and
#   "cs" it becomes ",", which is the decimal sign there. A plain space and a narrow no-break space (U+202F) stay.
# Why it matters: word processors and Wikipedia put a no-break space there. Corpora and references of
#   translations are cleaned with this function, and numbers in them become a thousand times smaller.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q sacremoses==0.2.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from sacremoses import MosesPunctNormalizer

print("sacremoses", version("sacremoses"))
GROUPED = "10\u00a0000 tokens"
for language, sign in (("en", "."), ("fi", "."), ("de", ","), ("fr", ","), ("es", ","), ("cs", ",")):
    normalizer = MosesPunctNormalizer(lang=language)
    found = normalizer.normalize(GROUPED), normalizer.normalize("3\u00a01/2")
    print(language, found)
    assert found == (f"10{sign}000 tokens", f"3{sign}1/2"), "the behavior has changed"
    for text in ("10 000 tokens", "10\u202f000 tokens"):
        assert normalizer.normalize(text) == text
PY
