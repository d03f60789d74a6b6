#!/usr/bin/env bash
# blosc2 4.14.1: (array % 3)[:] of [-5, -4, -1] is [-2, -1, -1], and (array % 3)[0:3] of the same is [1, 2, 2].
#
# Expected: a slice of a lazy expression is that part of its result. The documentation of remainder and of the operator
#   % says that they are "equivalent to the Python modulus operator", and links to NumPy's: the sign of the divisor.
# Observed: the whole array, by [:], compute() or a sum, is computed by one engine, with the sign of the dividend, as in
#   C; any slice, even 0:len(array), and one element go to numexpr, with the sign of the divisor. Integers and floats of
#   any size are alike. `//` rounds down in both, so that (a // b) * b + a % b is not a for the whole.
# Why it matters: hash % shards chooses the shard of a document or its side of a split, and half of all signed hashes
#   are negative. Computed for the corpus at once they have other shards than looked up one by one or in blocks, and
#   negative ones, which count from the end in a list of shards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q blosc2==4.14.1 numpy==2.4.6 numexpr==2.14.2
"$folder/venv/bin/python" - <<'PY'
import blosc2
import numexpr
import numpy as np

print("blosc2", blosc2.__version__, "numexpr", numexpr.__version__, "numpy", np.__version__)
for size in (5, 100_000):
    for dtype in ("int8", "int64", "float32", "float64"):
        values = np.resize(np.array([-5, -4, -1, 0, 7]), size).astype(dtype)
        array = blosc2.asarray(values)
        remainder, right = array % 3, values % 3
        whole, part, one = remainder[:], remainder[0:size], remainder[1]
        if dtype == "int64":
            print(f"{size:,} integers: [:] {whole[:5].tolist()}, [0:{size}] {part[:5].tolist()}")
            print(f"  NumPy {right[:5].tolist()}; sum {remainder.sum()}, sum of NumPy's {right.sum()}")
        assert np.array_equal(part, right) and one == right[1], "the behavior has changed"
        assert np.array_equal(whole, np.fmod(values, 3)), "the behavior has changed"
        assert np.array_equal(remainder.compute()[:], whole), "the behavior has changed"
        assert remainder.sum() == whole.sum() < 0, "the behavior has changed"
        assert np.array_equal((array // 3)[:], values // 3) and np.array_equal((array // 3)[0:size], values // 3)
PY
