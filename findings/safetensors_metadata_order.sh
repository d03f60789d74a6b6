#!/usr/bin/env bash
# safetensors 0.8.0: the same weights and metadata give another file in each process.
#
# Expected: the format has no time or padding left to chance, and the library sorts tensors, so equal input gives equal
#   bytes: a SHA-256 identifies a set of weights.
# Observed: metadata with two or more entries are written in the order of a hash table that is seeded at random in each
#   process (in Rust, so PYTHONHASHSEED changes nothing). Three entries give six headers of the same length. With
#   one entry, {"format": "pt"}, as transformers writes it, files are equal, so that the habit forms.
# Why it matters: reproducible builds and checks of checkpoints by hash fail, and stores that keep equal files once (Git
#   LFS, DVC, caches by content) keep each export again, as soon as step or config are recorded in the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q safetensors==0.8.0 numpy==2.4.6
cat > "$folder/save.py" <<'PY'
import hashlib
import json
import sys

import numpy as np
from safetensors.numpy import save

entries = dict(list({"format": "np", "step": "600000", "loss": "2.85"}.items())[: int(sys.argv[1])])
data = save({"wte": np.ones((4, 4), np.float32), "wpe": np.ones((2, 4), np.float32)}, metadata=entries)
size = int.from_bytes(data[:8], "little")
header = json.loads(data[8 : 8 + size])
print(len(data), hashlib.sha256(data).hexdigest()[:16], list(header["__metadata__"]))
PY
"$folder/venv/bin/python" -c 'from importlib.metadata import version; print("safetensors", version("safetensors"))'
for entries in 1 3; do
  for _ in $(seq 16); do
    PYTHONHASHSEED=0 "$folder/venv/bin/python" "$folder/save.py" "$entries"
  done | sort | uniq -c | tee "$folder/$entries"
done
test "$(wc -l < "$folder/1")" -eq 1
test "$(wc -l < "$folder/3")" -gt 1
