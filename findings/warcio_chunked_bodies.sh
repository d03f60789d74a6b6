#!/usr/bin/env bash
# warcio 1.8.1: content_stream() leaves the framing of some chunked HTTP bodies in the text.
#
# Expected: content_stream() undoes the Transfer-Encoding: the names of codings ignore case, and a chunked body may end
#   with trailer fields (RFC 9112, sections 7 and 7.1.2).
# Observed: "Chunked" with a capital is not recognized, so the page begins with the length of its first chunk and ends
#   with "0". With a trailer field, what follows the last chunk is returned as the end of the page, with its first bytes
#   missing. Nothing is reported; "chunked" without trailers is right. FastWARC 2.0.1 with auto_decode="all" knows the
#   capital, and raises OSError, "Invalid chunk header", at the trailer.
# Why it matters: text extraction for GPT-2 corpora reads raw captures through content_stream(). Numbers in hexadecimal
#   enter the text, and hashes of equal pages differ, so that exact deduplication keeps both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q warcio==1.8.1 FastWARC==2.0.1
"$folder/venv/bin/python" - <<'PY'
import io
from importlib.metadata import version

import fastwarc.warc
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

PAGE = b"<p>Boats lie in the harbor.</p>"
BODY = b"%x\r\n%s\r\n0\r\n" % (len(PAGE), PAGE)
cases = {
    "chunked": ("chunked", BODY + b"\r\n"),
    "a capital": ("Chunked", BODY + b"\r\n"),
    "a trailer": ("chunked", BODY + b"Server-Timing: db;dur=53\r\n\r\n"),
}
print({name: version(name) for name in ("warcio", "FastWARC")})
found = {}
for name, (coding, body) in cases.items():
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=False)
    headers = StatusAndHeaders("200 OK", [("Transfer-Encoding", coding)], protocol="HTTP/1.1")
    record = writer.create_warc_record("http://example.org/", "response", io.BytesIO(body), http_headers=headers)
    writer.write_record(record)
    pages = [each.content_stream().read() for each in ArchiveIterator(io.BytesIO(file.getvalue()))]
    try:
        others = [
            each.reader.read() for each in fastwarc.warc.ArchiveIterator(io.BytesIO(file.getvalue()), auto_decode="all")
        ]
    except OSError as error:
        others = [f"OSError: {error}"]
    print(f"{name}: warcio {pages}, FastWARC {others}")
    assert (others == [PAGE]) == (name != "a trailer"), "the behavior has changed"
    (found[name],) = pages
assert found["chunked"] == PAGE, "the behavior has changed"
assert found["a capital"] == BODY + b"\r\n", "the behavior has changed"
assert found["a trailer"].startswith(PAGE + b"0\r\n") and b"dur=53" in found["a trailer"], "the behavior has changed"
PY
