#!/usr/bin/env bash
# httpx 0.28.1: iter_lines() of the JSON Lines {"t": "one\u2028two"} gives the two halves {"t": "one and two"}.
#
# Expected: lines end with LF or CR LF, as in JSON Lines and in requests' iter_lines() of bytes. JSON needs no escape
#   for U+2028, U+2029 and U+0085, and json.dumps(ensure_ascii=False), orjson and JavaScript write them as they are.
# Observed: the text is divided by the rule of Python's str.splitlines, which knows these three and five more ends of
#   a line. The guide says "stream the text, on a line-by-line basis" and names no rule.
# Why it matters: servers of models (Ollama) and exports of data sets send a JSON object a line, and web text has
#   these characters. The reader fails far into a stream on half an object, or, if lines are texts, has more lines
#   than were sent, so that answers and prompts no longer match.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q httpx==0.28.1 requests==2.34.2 orjson==3.13.0
"$folder/venv/bin/python" - <<'PY'
import http.server
import json
import threading

import httpx
import orjson
import requests

print("httpx", httpx.__version__, "requests", requests.__version__)
TEXTS = ["plain", "one\u2028two", "one\u2029two", "one\x85two", "caf\u00e9"]
LINES = [orjson.dumps({"t": text}) for text in TEXTS]
DUMPED = [json.dumps({"t": text}, ensure_ascii=False, separators=(",", ":")) for text in TEXTS]
assert [line.decode() for line in LINES] == DUMPED


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the lines."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"".join(line + b"\n" for line in LINES))

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
with httpx.stream("GET", url) as response:
    found = list(response.iter_lines())
with requests.get(url, stream=True, timeout=10) as response:
    right = list(response.iter_lines())
server.shutdown()
print(f"{len(TEXTS)} lines were sent, requests gives {len(right)}, httpx", [ascii(line) for line in found])
assert right == LINES
halves = [half for line in LINES for half in line.decode().splitlines()]
assert found == halves and len(found) == 8, "the behavior has changed"
PY
