#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy.save_file writes transposed arrays in the wrong order; 0.7.0 writes them right.
#
# Expected: load_file returns what save_file was given, for a view such as `weight.T` and for column-major arrays too, as
#   with np.save and with safetensors 0.7.0. At worst an error, as safetensors.torch raises for such tensors.
# Observed: 0.8.0 passes the address of the array's memory instead of tobytes(), so the elements are stored in memory
#   order under the view's shape: every element of `weight.T` is there, in another place, without an error. The docstring
#   of both versions says that arrays "need to be contiguous"; only the consequence is new.
# Why it matters: GPT-2's four matrices per layer are stored as (in, out) and those of torch.nn.Linear as (out, in), so
#   conversions save `weight.T`. The file has the right names, shapes, dtypes and means, and the model is noise. Square
#   matrices (attn.c_proj) come back untransposed. np.ascontiguousarray before saving avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/check.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {"row-major": weight, "transposed": weight.T, "column-major": np.asfortranarray(weight)}
save_file(arrays, sys.argv[1])
loaded = load_file(sys.argv[1])
equal = {name: bool(np.array_equal(array, loaded[name])) for name, array in arrays.items()}
print("safetensors", version("safetensors"), "numpy", np.__version__, "loaded as saved:", equal)
print("  saved", arrays["transposed"].tolist(), "loaded", loaded["transposed"].tolist())
is_new = version("safetensors") == "0.8.0"
expected = {"row-major": True, "transposed": not is_new, "column-major": not is_new}
assert equal == expected, "the behavior has changed"
PY
for release in 0.7.0 0.8.0; do
  "$folder/venv/bin/pip" --disable-pip-version-check install -q "safetensors==$release" numpy==2.4.6
  "$folder/venv/bin/python" "$folder/check.py" "$folder/weights.safetensors"
done
