#!/usr/bin/env bash
# tinygrad 0.14.0: sorting [3, NaN, 1, 2] gives [1, 2, 3, 3], and the argmax of [NaN, 1] is 2, an index that does not
#   exist.
#
# Expected: a sorted tensor has the values of the tensor, and argmax an index of it. NumPy, PyTorch and JAX sort NaN
#   to the end and give the index of the NaN.
# Observed: sort, topk and argsort are built of comparisons by maximum and minimum, which on this backend drop a NaN
#   and take the other value twice. max([1, NaN, 3]) is 3. argmax looks for the position that equals the maximum, and
#   finds none where that is NaN: its answer is the length of the row. relu(NaN) is 0, sign(NaN) is 1. Seen with
#   DEV=PYTHON, the backend that needs no compiler.
# Why it matters: greedy sampling of a broken step returns the id 50257, one past GPT-2's vocabulary, which indexing
#   answers with zeros. Top-k sampling counts one token twice, and a check of max(abs(gradient)) against infinity does
#   not see the NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tinygrad==0.14.0 numpy==2.4.6
DEV=PYTHON XDG_CACHE_HOME="$folder" "$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from tinygrad import Device, Tensor

print("tinygrad", version("tinygrad"), "device", Device.DEFAULT)
NAN = float("nan")
ROW = [3.0, NAN, 1.0, 2.0]
cases = {
    "sort": (Tensor(ROW).sort()[0].tolist(), np.sort(ROW).tolist(), [1.0, 2.0, 3.0, 3.0]),
    "topk": (Tensor(ROW).topk(2)[0].tolist(), None, [3.0, 3.0]),
    "max": (Tensor([1.0, NAN, 3.0]).max().item(), np.max([1.0, NAN, 3.0]), 3.0),
    "argmax": (Tensor([NAN, 1.0]).argmax().item(), np.argmax([NAN, 1.0]), 2),
    "argmax of NaN": (Tensor([NAN] * 5).argmax().item(), np.argmax([NAN] * 5), 5),
    "sign": (Tensor([NAN]).sign().tolist(), np.sign([NAN]).tolist(), [1.0]),
    "relu": (Tensor([NAN]).relu().tolist(), np.maximum([NAN], 0).tolist(), [0.0]),
}
for name, (found, right, _) in cases.items():
    print(f"{name}: {found}, NumPy: {right}")
assert Tensor([3.0, 1.0, 2.0]).sort()[0].tolist() == [1.0, 2.0, 3.0] and Tensor([1.0, 5.0, 2.0]).argmax().item() == 1
for name, (found, _, seen) in cases.items():
    assert found == seen, f"the behavior has changed: {name}"
PY
