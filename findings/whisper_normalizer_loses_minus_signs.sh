#!/usr/bin/env bash
# whisper-normalizer 0.1.15: "-5" becomes "5" and "minus five" becomes "-5"; "10 000" is "10 0", and "1/2" is "one 2".
#
# Expected: texts that say the same become equal, and texts that say different things stay different: that is what it
#   is for, before a word error rate is counted.
# Observed: numbers in digits are taken apart. The minus sign goes with the punctuation, so -5 equals 5 and not "minus
#   five"; 007 becomes 7, but "zero zero seven" 007; "000" after a space is 0; a 1 at the start of a fraction becomes
#   "one". "five o'clock" is "50 clock", "f(x)" is "f", and "one hundred and one hundred" is 10100.
# Why it matters: leaderboards of speech recognition, and of translations of speech by language models, are computed
#   on such texts. A model that hears -5 degrees as 5 has no error, and one that writes it as "minus five" has one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q whisper-normalizer==0.1.15
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from whisper_normalizer.english import EnglishTextNormalizer

print("whisper-normalizer", version("whisper-normalizer"))
normalize = EnglishTextNormalizer()
texts = {
    "-5 degrees": "5 degrees",
    "minus five degrees": "-5 degrees",
    "agent 007": "agent 7",
    "agent zero zero seven": "agent 007",
    "10 000 ships": "10 0 ships",
    "ten thousand ships": "10000 ships",
    "1/2 a cup": "one 2 a cup",
    "at five o'clock": "at 50 clock",
    "f(x) rises": "f rises",
    "one hundred and one hundred": "10100",
    "1,000 ships": "1000 ships",
}
for text, expected in texts.items():
    found = normalize(text)
    print(f"{text!r}: {found!r}")
    assert found == expected, "the behavior has changed"
PY
