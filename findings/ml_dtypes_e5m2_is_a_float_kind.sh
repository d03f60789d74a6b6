#!/usr/bin/env bash
# ml_dtypes 0.6.0 (JAX's bfloat16 and float8) with NumPy 2.4.6.
# Expected: the float8 types behave alike: np.save and np.load keep the bytes (as void, dtype V1), strided views work.
# Happens: float8_e5m2 alone has NumPy's kind "f" where its four siblings and bfloat16 have "V". np.save writes an array
# of it without a word as dtype "<f1", which no NumPy can load, and as_strided raises "data type '<f1' not understood".
# Why it matters: code that asks `dtype.kind == "V"` for JAX's small types misses one of them, and weights or gradients
# in e5m2 that were saved with NumPy can only be got back by editing the header of the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install numpy==2.4.6 ml_dtypes==0.6.0
cat > "$folder/kinds.py" <<'PROGRAM'
import io

import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
names = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e5m2")
readable = {}
for name in names:
    array = np.arange(4).astype(getattr(ml_dtypes, name))
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    try:
        readable[name] = np.load(file).tobytes() == array.tobytes()
    except ValueError as error:
        readable[name] = False
        print(name, "saved, not loaded:", error)
    print(name, "kind", array.dtype.kind, "loads again:", readable[name])
assert readable == {name: name != "float8_e5m2" for name in names}, "the behavior has changed"
PROGRAM
"$folder/venv/bin/python" "$folder/kinds.py"
