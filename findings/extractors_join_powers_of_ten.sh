#!/usr/bin/env bash
# trafilatura 2.3.1, justext 3.0.2, resiliparse 2.0.1, html2text 2025.4.15, markdownify 1.2.3: "10<sup>9</sup> tokens"
#   is "109 tokens".
#
# Expected: a text with another number is not what the page says: 10^9, or 10 9, or the digit as a superscript.
# Observed: tags inside of a line are dropped in all five, with nothing in their place: 10 to the ninth is 109, 2 in
#   base 10 is 210, and "5<sup>th</sup>" is right by the same rule. trafilatura keeps the tags in Markdown with
#   include_formatting, markdownify with sup_symbol="^", and the others have no option. None mentions it.
# Why it matters: science, finance and encyclopedias write powers so. A corpus of web pages teaches a GPT-2 that the
#   Earth has a mass of 5.97 times 1024 kg, and no filter of documents sees it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q trafilatura==2.3.1 justext==3.0.2 resiliparse==2.0.1 \
  html2text==2025.4.15 markdownify==1.2.3 lxml==6.1.3 lxml_html_clean==0.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import html2text
import justext
import markdownify
import trafilatura
from resiliparse.extract.html2text import extract_plain_text

print({name: version(name) for name in ("trafilatura", "justext", "resiliparse", "html2text", "markdownify")})
MASS = "The Earth has a mass of 5.97 x 10<sup>24</sup> kg, and the harbor of the town where this is written has less. "
BASE = "The number 101<sub>2</sub> has another base than most numbers that people write down when they count its ships."
PAGE = f"<html><body><article><p>{MASS * 2}</p><p>{BASE}</p></article></body></html>"
texts = {
    "trafilatura": trafilatura.extract(PAGE),
    "justext": "\n".join(part.text for part in justext.justext(PAGE.encode(), justext.get_stoplist("English"))),
    "resiliparse": extract_plain_text(PAGE),
    "html2text": html2text.HTML2Text(bodywidth=0).handle(PAGE),
    "markdownify": markdownify.markdownify(PAGE),
}
for name, text in texts.items():
    print(f"{name}: {text.strip()!r}")
    assert "5.97 x 1024 kg" in text and "The number 1012 has" in text, "the behavior has changed"
marked = markdownify.markdownify(PAGE, sup_symbol="^", sub_symbol="_")
kept = trafilatura.extract(PAGE, output_format="markdown", include_formatting=True)
assert "10^24^" in marked and "10<sup>24</sup>" in kept
PY
