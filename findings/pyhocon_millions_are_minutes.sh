#!/usr/bin/env bash
# pyhocon 0.3.63: "size = 124m" is 2 hours and 4 minutes, and "name = gpt2 350m" is a text with a relativedelta in it.
#
# Expected: an unquoted text that is no number, boolean or null is a string, as HOCON's specification says; units of
#   time are read by those who ask for a duration. pyhocon has no such call, and gives strings for "10k" and "350M".
# Observed: a number before s, m, h, d, w, y, ms, us or ns, or one of their long forms, becomes a relativedelta or a
#   timedelta wherever it stands: 124m is 2:04 hours, 3w 21 days, and 100ms a timedelta. In a longer text it is
#   replaced by the repr of that: "gpt2 relativedelta(hours=+5, minutes=+50)". Capitals, and quoted values, stay. The
#   documentation has one line on it among its features.
# Why it matters: sizes of models are written so ("124m", "1.5b"). One of a list of sizes becomes an object of another
#   type, and names of runs, folders and models get parentheses and signs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pyhocon==0.3.63 python-dateutil==2.9.0.post0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from pyhocon import ConfigFactory

print("pyhocon", version("pyhocon"))
lines = {
    "size = 124m": "relativedelta(hours=+2, minutes=+4)",
    "name = gpt2 350m": "'gpt2 relativedelta(hours=+5, minutes=+50)'",
    "width = 3w": "relativedelta(days=+21)",
    "wait = 100ms": "datetime.timedelta(microseconds=100000)",
    "sizes = [124m, 350M]": "[relativedelta(hours=+2, minutes=+4), '350M']",
    "size = 10k": "'10k'",
    "size = 350M": "'350M'",
    'size = "124m"': "'124m'",
}
for line, expected in lines.items():
    (value,) = ConfigFactory.parse_string(line).values()
    print(f"{line}: {value!r}")
    assert repr(value) == expected, "the behavior has changed"
PY
