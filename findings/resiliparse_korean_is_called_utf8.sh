#!/usr/bin/env bash
# resiliparse 2.0.1: detect_encoding calls Korean pages UTF-8.
#
# Expected: a page in windows-949, which is most Korean pages that declare no charset, is detected as Korean.
# Happens:  the detector finds cp949, but the mapping to HTML5 names (on by default) does not know that name and replaces
#           it with utf-8, so that the page decodes to U+FFFD; HTML5 calls the same encoding euc-kr, which is known.
# Matters:  extraction of web text for GPT-2 training corpora uses this function; Korean text becomes garbage silently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q resiliparse==2.0.1
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

text = "오늘은 날씨가 좋아서 공원으로 산책을 갔습니다. 저녁에는 영화를 보았습니다. "
page = f"<html><head><title>Page</title></head><body><p>{text * 20}</p></body></html>".encode("cp949")
names = {"default": detect_encoding(page), "html5_compatible=False": detect_encoding(page, html5_compatible=False)}
print("resiliparse", version("resiliparse"))
print("detected:", names)
print("cp949 ->", map_encoding_to_html5("cp949"), " euc-kr ->", map_encoding_to_html5("euc-kr"))
print("characters lost by the default:", page.decode(names["default"], "replace").count("\ufffd"))
assert names == {"default": "utf-8", "html5_compatible=False": "cp949"}, "the behavior has changed"
PY
