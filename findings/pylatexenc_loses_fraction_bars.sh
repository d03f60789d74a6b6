#!/usr/bin/env bash
# pylatexenc 2.11: latex_to_text makes "a+b/c" of \frac{a+b}{c}, "12" of \sfrac{1}{2}, and "ab" of \dfrac{a}{b}.
#
# Expected: a text that means the same, as for \sqrt{a+b}, which becomes "(a+b)" behind a root sign; or the LaTeX
#   itself.
# Observed: the numerator and the denominator are joined by a slash without parentheses. Exponents and indexes lose
#   their braces, so e^{a+b}c and e^a+bc are the same text; \textsuperscript loses everything: 10\textsuperscript{6}
#   is "106". Macros that the library does not know, such as \dfrac, \tfrac and \sfrac, leave their arguments side by
#   side. The documentation calls the result approximate, not that numbers change.
# Why it matters: it is the usual way from LaTeX to plain text, for abstracts, BibTeX titles and corpora. A GPT-2
#   learns that one half is 12, and answers are compared with such texts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pylatexenc==2.11
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from pylatexenc.latex2text import LatexNodes2Text

print("pylatexenc", version("pylatexenc"))
texts = {
    r"$\frac{a+b}{c}$": "a+b/c",
    r"$a+\frac{b}{c}$": "a+b/c",
    r"$e^{a+b}c$": "e^a+bc",
    r"$e^a+bc$": "e^a+bc",
    r"\sfrac{1}{2} cup": "12 cup",
    r"$\dfrac{3}{4}$": "34",
    r"$\tfrac{3}{4}$": "34",
    r"10\textsuperscript{6} tokens": "106 tokens",
    r"$\sqrt{a+b}$": "\N{SQUARE ROOT}(a+b)",
}
for latex, expected in texts.items():
    found = LatexNodes2Text().latex_to_text(latex)
    print(f"{latex}: {found}")
    assert found == expected, "the behavior has changed"
PY
