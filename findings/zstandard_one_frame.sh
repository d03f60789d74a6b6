#!/usr/bin/env bash
# zstandard 0.25.0 (python-zstandard): ZstdDecompressor().decompress() returns the first frame of a .zst file and no error.
#
# Expected: a .zst file of several frames unpacks to all of them, as `zstd -d` does, and as gzip, bz2 and lzma do in Python.
# What happens: decompress(data) stops after the first frame and drops the rest silently; stream_reader() and open() of
# the same version read all frames.
# Why it matters for GPT-2 users: pzstd, `cat a.jsonl.zst b.jsonl.zst`, and writers that append make such files, and web
# corpora are distributed as .jsonl.zst. A loader that unpacks a shard in one call trains on its first frame only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet zstandard==0.25.0
"$work/venv/bin/python" - <<'PYTHON'
import bz2
import gzip
import io
import lzma

import zstandard

first, second = b'{"text": "one"}\n', b'{"text": "two"}\n'
compress = zstandard.ZstdCompressor().compress
packed = compress(first) + compress(second)
whole = zstandard.ZstdDecompressor().decompress(packed)
streamed = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
print("zstandard", zstandard.__version__, "libzstd", zstandard.ZSTD_VERSION)
print("decompress:   ", whole)
print("stream_reader:", streamed)
for module in (gzip, bz2, lzma):
    assert module.decompress(module.compress(first) + module.compress(second)) == first + second
assert streamed == first + second
assert whole == first, "decompress() no longer stops after the first frame"
PYTHON
