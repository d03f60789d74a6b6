#!/usr/bin/env bash
# sseclient 0.0.27: an event "page\fbreak" comes as "page"; so do texts at U+0085, U+2028 and five other characters.
#
# Expected: lines of an event stream end with CR, LF or both, says its specification, and streams are always UTF-8. The
#   README calls the library a client for Server Sent Event streams, and names no limits.
# Observed: each event is divided by Python's splitlines, which knows eight other ends of a line; what follows them has
#   no field name and is dropped without a word. JSON with such a character arrives cut, as invalid JSON, plain text as
#   a shorter text. Where the header has no charset, and it need not have one, UTF-8 is read as ISO-8859-1, so that
#   "caf\u00e9" has five letters, and "\u00c5", whose second byte is 0x85, ends its event. sseclient-py 1.9.0, which is
#   installed under the same name, and httpx-sse 0.4.3 are right.
# Why it matters: chat servers stream tokens as events, and web text that GPT-2 learned from has form feeds, U+2028 and
#   U+0085. The client's copy of an answer lacks the rest of each such piece, and both packages are imported as
#   sseclient, so that which one runs depends on the order of installation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for package in sseclient==0.0.27 sseclient-py==1.9.0; do
  python3 -m venv "$folder/$package"
  "$folder/$package/bin/pip" --disable-pip-version-check install -q "$package" requests==2.34.2
  "$folder/$package/bin/python" - "$package" <<'PY'
import http.server
import itertools
import json
import sys
import threading

import requests
import sseclient

PACKAGE = sys.argv[1]
TEXTS = ["plain", "page\x0cbreak", "one\x85two", "one\u2028two", "one\x1ctwo", "one\x0btwo", "caf\u00e9", "\u00c5rhus"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends one event per text, as in a stream of UTF-8."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" + ("; charset=utf-8" if "charset" in self.path else ""))
        self.end_headers()
        for text in TEXTS:
            data = json.dumps(text, ensure_ascii=False) if "json" in self.path else text
            self.wfile.write(f"data: {data}\n\n".encode())

    def log_message(self, *args):
        pass


def events(path: str) -> list[str]:
    """The data of the events as the package reads them."""
    address = f"http://127.0.0.1:{server.server_port}/{path}"
    session = requests.Session()
    session.trust_env = False
    if PACKAGE.startswith("sseclient-py"):
        found = sseclient.SSEClient(session.get(address, stream=True)).events()
    else:
        found = sseclient.SSEClient(address, session=session)
    return [event.data for event in itertools.islice(found, len(TEXTS))]


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
named, bare = events("charset"), events("bare")
print(PACKAGE, "with a charset:", ascii(named), "without one:", ascii(bare))
if PACKAGE.startswith("sseclient-py"):
    assert named == bare == TEXTS
else:
    assert named == ["plain", "page", "one", "one", "one", "one", "caf\u00e9", "\u00c5rhus"], "the behavior has changed"
    assert bare[1] == "page" and bare[-2:] == ["caf\u00c3\u00a9", "\u00c3"], "the behavior has changed"
server.shutdown()
PY
done
