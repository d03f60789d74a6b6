#!/usr/bin/env bash
# safetensors 0.8.0 with NumPy: float8 tensors cannot be read, although ml_dtypes is installed and bfloat16 can.
#
# Expected: safe_open(file, "np") gives float8_e4m3fn and float8_e5m2 as ml_dtypes arrays, as it gives bfloat16.
# Happens:  get_tensor and get_slice raise AttributeError: module 'numpy' has no attribute 'float8_e4m3fn'; the names,
#           shapes and types in the same file can be asked for, so a check of the header finds nothing wrong.
# Matters:  weights of a GPT-2 that were saved as float8 (half of float16) cannot be loaded by programs without PyTorch,
#           such as those on JAX; the bytes have to be mapped and viewed as ml_dtypes types.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - "$folder/weights.safetensors" <<'PY'
import json
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
from safetensors import safe_open

types = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
header, data = {}, b""
for name, dtype in types.items():
    array = np.arange(8).astype(dtype)
    header[name] = {"dtype": name, "shape": [8], "data_offsets": [len(data), len(data) + array.nbytes]}
    data += array.tobytes()
text = json.dumps(header).encode()
with open(sys.argv[1], "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text + data)
print({name: version(name) for name in ("safetensors", "numpy", "ml_dtypes")})
seen = {}
with safe_open(sys.argv[1], "np") as file:
    for name in types:
        entry = file.get_slice(name)
        try:
            seen[name] = str(file.get_tensor(name).dtype)
        except AttributeError as error:
            seen[name] = f"AttributeError: {error}"
        print(name, entry.get_dtype(), entry.get_shape(), "->", seen[name])
assert seen["BF16"] == "bfloat16", "the behavior has changed"
assert all("has no attribute 'float8" in seen[name] for name in ("F8_E4M3", "F8_E5M2")), "the behavior has changed"
PY
