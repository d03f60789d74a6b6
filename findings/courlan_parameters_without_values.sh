#!/usr/bin/env bash
# courlan 1.4.0 (trafilatura's URL library): normalize_url gives all pages of "/?Name" the same address.
#
# Expected: normalizing keeps addresses of different pages different; it sorts parameters and removes known trackers.
# Observed: parameters without a value are dropped, as Python's parse_qs does by default: "?Sailing", "?Harbor=" and
#   "?p&id=" become "/". clean_url and check_url do the same, with strict=False as well, so the address that a crawl
#   stores and requests is the one of the front page.
# Why it matters: old wikis, forums and archives name pages by the query alone (index.php?PageName). Lists of URLs for a
#   GPT-2 corpus that are cleaned or deduplicated with courlan keep one page of such a site, and count the others as
#   seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q courlan==1.4.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import courlan

print("courlan", version("courlan"))
SITE = "https://example.org/wiki/"
pages = ["?Sailing", "?Harbor=", "?print&id=", "?page=Sailing", "?page=Harbor"]
found = {}
for page in pages:
    found[page] = normal, clean, (checked, _) = (
        courlan.normalize_url(SITE + page), courlan.clean_url(SITE + page), courlan.check_url(SITE + page)
    )
    print(f"{SITE + page}: normalize_url {normal}, clean_url {clean}, check_url {checked}")
    assert normal == clean == checked == (SITE + page if "page=" in page else SITE), "the behavior has changed"
PY
