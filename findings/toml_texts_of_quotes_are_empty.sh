#!/usr/bin/env bash
# toml 0.10.2: the list ["\"", ","] is read as three empty texts, and "\"" alone as one; toml wrote the file itself.
#
# Expected: loads(dumps(x)) is x, and what Python's tomllib gives for the same valid file: a text of one quotation mark
#   and one of a comma. The README calls the library one "for parsing and creating TOML", and names no limits of texts.
# Observed: a text that ends with an escaped quotation mark and has nothing else in it is empty, and "," in a list is
#   two empty texts. Longer texts with quotation marks or commas inside are right. dumps writes all of these right, but
#   turns a backslash before x41 into the letter: "\\x41" is written as "A". No error and no warning.
# Why it matters: lists of stop sequences, separators and characters to keep in a filter are such lists. An empty stop
#   sequence ends each answer at its first token, or never does, and an empty separator splits nothing. toml is the
#   reader of many programs for Python before 3.11, and tomllib in newer ones reads the same configuration otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q toml==0.10.2
"$folder/venv/bin/python" - <<'PY'
import tomllib

import toml

print("toml", toml.__version__)
lists = {
    ('"', ","): ["", "", ""],
    ("\\", ","): ["\\", "", ""],
    ("```", '"""'): ["```", ""],
    ("]", '"', "#"): ["]", "", "#"],
    ('say "hi", she', "a,b"): ['say "hi", she', "a,b"],
}
for texts, expected in lists.items():
    written = toml.dumps({"stop": list(texts)})
    found, right = toml.loads(written)["stop"], tomllib.loads(written)["stop"]
    print(f"{written.strip()}: toml {found}, tomllib {right}")
    assert right == list(texts) and found == expected, "the behavior has changed"
alone = 'stop = "\\""'
assert toml.loads(alone) == {"stop": ""} and tomllib.loads(alone) == {"stop": '"'}, "the behavior has changed"
pattern = toml.dumps({"pattern": "\\x41"})
print("the pattern \\x41 is written as", pattern.strip())
assert tomllib.loads(pattern) == toml.loads(pattern) == {"pattern": "A"}, "the behavior has changed"
PY
