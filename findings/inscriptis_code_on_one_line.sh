#!/usr/bin/env bash
# inscriptis 2.7.6: a program in <pre><code> comes out on one line: "def f(x): if x: return 1 return 2".
#
# Expected: <pre> keeps line breaks and spaces, as in a browser, whatever elements are inside: white-space is inherited
#   in CSS. The library "provides support for basic Cascade Style Sheets", and text directly in <pre> is right.
# Observed: in any element within <pre>, such as <code> or <span>, all whitespace becomes one space, with both CSS
#   profiles, although neither has a rule for white-space there. trafilatura, resiliparse, html2text and markdownify
#   keep the lines.
# Why it matters: <pre><code> is what Markdown becomes, so nearly every program on the web is in it. Python in a corpus
#   for GPT-2 then has no lines and no indentation, comments swallow the code after them, and the text looks plausible
#   to filters, as prose does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q inscriptis==2.7.6 html2text==2025.4.15
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import html2text
import inscriptis
from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.model.config import ParserConfig

print({name: version(name) for name in ("inscriptis", "html2text")})
CODE = "def f(x):\n    if x:  # true\n        return 1\n    return 2"
JOINED = " ".join(CODE.split())
cases = {
    "<pre>": f"<pre>{CODE}</pre>",
    "<pre><span>": f"<pre><span>{CODE}</span></pre>",
    "<pre><code>": f"<pre><code>{CODE}</code></pre>",
    "<pre><code><span>": f"<pre><code><span>{CODE}</span></code></pre>",
    "<pre><div>": f"<pre><div>{CODE}</div></pre>",
}
for name, html in cases.items():
    page = f"<html><body>{html}</body></html>"
    found = [inscriptis.get_text(page, ParserConfig(css=profile)).strip() for profile in CSS_PROFILES.values()]
    print(f"{name}: {found[0]!r}")
    assert found == [CODE if name == "<pre>" else JOINED] * 2, "the behavior has changed"
    assert [line.strip() for line in CODE.splitlines()] == [
        line.strip() for line in html2text.html2text(page).splitlines() if line.strip()
    ]
PY
