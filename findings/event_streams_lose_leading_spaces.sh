#!/usr/bin/env bash
# fetch-event-stream 0.1.6 (npm), requests-sse 0.5.3 and aiohttp-sse-client2 0.3.0: "data:  world" is "world".
#
# Expected: the specification of server-sent events takes one space after the colon away, so the data is " world", and
#   two empty lines of data are a line end. eventsource-parser 3.1.1, browsers and httpx-sse 0.4.3 do so.
# Observed: the three take all white space there. A line end as a text of its own, "data:" twice, is an empty text in
#   all three, and in fetch-event-stream a text that begins with line ends loses them. The READMEs name no
#   difference from it.
# Why it matters: servers of language models send each token as an event, and nearly all tokens of GPT-2 begin with a
#   space. Where they are sent as texts, not inside JSON, the answer has no spaces: "Hello world" is "Helloworld", and
#   the indentation and line ends of programs are gone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund fetch-event-stream@0.1.6 eventsource-parser@3.1.1 > npm.log 2>&1 ||
  { cat npm.log; exit 1; }
python3 -m venv venv
venv/bin/pip --disable-pip-version-check install -q requests-sse==0.5.3 aiohttp-sse-client2==0.3.0 httpx-sse==0.4.3 \
  httpx==0.28.1
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { createParser } from "eventsource-parser";
import { events } from "fetch-event-stream";

const { version } = JSON.parse(readFileSync("node_modules/fetch-event-stream/package.json"));
const stream = ["Hello", " world", "\n", "    return", "\n\nx", "a\nb"]
  .map((text) => text.split("\n").map((line) => `data: ${line}\n`).join("") + "\n").join("");
const found = [];
for await (const event of events(new Response(stream))) found.push(event.data);
console.log("fetch-event-stream", version, JSON.stringify(found));
const right = [];
createParser({ onEvent: (event) => right.push(event.data) }).feed(stream);
assert.deepEqual(right, ["Hello", " world", "\n", "    return", "\n\nx", "a\nb"]);
assert.deepEqual(found, ["Hello", "world", "", "return", "x", "a\nb"], "the behavior has changed");
JS
node run.mjs
venv/bin/python - <<'PY'
import asyncio
import http.server
import threading
from importlib.metadata import version

import aiohttp_sse_client2.client
import httpx
import httpx_sse
import requests_sse

TEXTS = ["Hello", " world", "\n", "    return", "a\nb"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends one event per text."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in TEXTS:
            self.wfile.write(("".join(f"data: {line}\n" for line in text.split("\n")) + "\n").encode())

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"


async def by_aiohttp() -> list[str]:
    found = []
    async with aiohttp_sse_client2.client.EventSource(url, max_connect_retry=0) as source:
        async for event in source:
            found.append(event.data)
            if len(found) == len(TEXTS):
                break
    return found


with requests_sse.EventSource(url, timeout=10, max_connect_retry=0) as source:
    first = [next(iter(source)).data for _ in TEXTS]
with httpx.Client() as client, httpx_sse.connect_sse(client, "GET", url) as source:
    right = [event.data for event in source.iter_sse()]
second = asyncio.run(by_aiohttp())
server.shutdown()
print("requests-sse", version("requests-sse"), first)
print("aiohttp-sse-client2", version("aiohttp-sse-client2"), second)
print("httpx-sse", version("httpx-sse"), right)
assert right == TEXTS
assert first == second == ["Hello", "world", "", "return", "a\nb"], "the behavior has changed"
PY
