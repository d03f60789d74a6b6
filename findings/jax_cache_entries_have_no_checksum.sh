#!/usr/bin/env bash
# JAX 0.10.1: where the package zstandard is installed, entries of the compilation cache lose their checksum.
#
# Expected: installing zstandard makes the entries smaller and quicker to read. A damaged entry is noticed either way: JAX
#   reports an entry that it cannot read, and compiles again.
# Observed: without zstandard entries are zlib streams, whose Adler-32 finds each changed bit. With it they are zstd frames
#   without a content checksum (zstandard.ZstdCompressor writes none by itself, unlike the command zstd), so most entries
#   with one changed bit decompress without an error, to another compiled program, which JAX would load and run.
# Why it matters: caches live for months on disks and in buckets, and are shared. The entries here are only decompressed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
cat > "$folder/program.py" <<'PY'
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax._src import compilation_cache

folder = Path(sys.argv[1])
jax.config.update("jax_compilation_cache_dir", str(folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x) + 1))(jnp.ones((64, 64)))
entry = max(folder.glob("*-cache"), key=lambda path: path.stat().st_size).read_bytes()
whole = compilation_cache.decompress_executable(entry)
places = range(8 * 40, 8 * len(entry) - 64, max(1, len(entry) // 25))  # bits after the header
noticed = changed = 0
for place in places:
    damaged = bytearray(entry)
    damaged[place // 8] ^= 1 << place % 8
    try:
        changed += compilation_cache.decompress_executable(bytes(damaged)) != whole
    except Exception:
        noticed += 1
is_zstd = entry[:4] == b"\x28\xb5\x2f\xfd"
print(f"jax {jax.__version__}, {'zstd' if is_zstd else 'zlib'}: of {len(places)} changed bits {noticed} are noticed,", end=" ")
print(f"{changed} give another program")
assert (noticed == len(places)) if not is_zstd else changed > len(places) / 4, "the behavior has changed"
assert is_zstd == (sys.argv[2] == "zstd"), "the format has changed"
if is_zstd:
    import zstandard

    print(f"zstandard {zstandard.__version__}: checksum {zstandard.get_frame_parameters(entry).has_checksum}")
    assert not zstandard.get_frame_parameters(entry).has_checksum, "the behavior has changed"
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py" "$folder/cache1" zlib
"$folder/venv/bin/pip" --disable-pip-version-check install -q zstandard==0.25.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py" "$folder/cache2" zstd
