#!/usr/bin/env bash
# warcio 1.8.1: content_stream() ends a page after the first gzip member of its body.
#
# Expected: "Content-Encoding: gzip" is the format of RFC 1952, whose files are one or more members, each decompressed
#   and joined. warcio itself reads WARC files that are made of thousands of members.
# Observed: of a body of two members content_stream() returns the first one only, without an error. FastWARC 2.0.1 with
#   auto_decode="all", gzip.decompress and `gunzip` return both.
# Why it matters: a server may join parts that it keeps compressed, such as a header and an article. A GPT-2 corpus from
#   such captures has the first part only, and a browser or gunzip, with which one looks at the page, shows it whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q warcio==1.8.1 FastWARC==2.0.1
"$folder/venv/bin/python" - <<'PY'
import gzip
import io
from importlib.metadata import version

import fastwarc.warc
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HEADER, ARTICLE = b"<nav>Home</nav>", b"<p>Boats lie in the harbor.</p>"
print({name: version(name) for name in ("warcio", "FastWARC")})
found = {}
for name, parts in {"one member": [HEADER + ARTICLE], "two members": [HEADER, ARTICLE]}.items():
    body = b"".join(map(gzip.compress, parts))
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    headers = StatusAndHeaders("200 OK", [("Content-Encoding", "gzip")], protocol="HTTP/1.1")
    writer.write_record(
        writer.create_warc_record("http://example.org/", "response", io.BytesIO(body), http_headers=headers)
    )
    data = file.getvalue()
    (found[name],) = (record.content_stream().read() for record in ArchiveIterator(io.BytesIO(data)))
    (other,) = (
        record.reader.read() for record in fastwarc.warc.ArchiveIterator(io.BytesIO(data), auto_decode="all")
    )
    print(f"{name}: warcio {found[name]}, FastWARC {other}")
    assert other == gzip.decompress(body) == HEADER + ARTICLE, "the behavior has changed"
assert found == {"one member": HEADER + ARTICLE, "two members": HEADER}, "the behavior has changed"
PY
