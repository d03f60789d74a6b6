#!/usr/bin/env bash
# blosc2 4.14.1: for uint64 hashes, hash > 5 is False from 2**63 on in any slice, and hash % 10 is wrong everywhere.
#
# Expected: what NumPy gives, whose functions the documentation links to. uint64 is one of the types an array may have;
#   values are stored right, + and - are right, and max and min as well.
# Observed: values from 2**63 on count as negative. hash // 2 and hash >> 1 are near 1.4e19, hash % 10 has another
#   digit, and where(hash > 5, hash, 0) gives 0. Comparisons and hash / 2 are right for the whole array, by [:], and
#   wrong for a slice or one element. No error and no warning; NumPy's type in the expression, np.uint64(5), changes
#   nothing.
# Why it matters: half of all 64-bit hashes are that large. A sample of a corpus by "hash < limit", shards by "hash % n"
#   and the smallest hashes of a MinHash take other documents than the same line with NumPy, and a loop over blocks
#   takes others than one call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q blosc2==4.14.1 numpy==2.4.6 numexpr==2.14.2
"$folder/venv/bin/python" - <<'PY'
import blosc2
import numpy as np

print("blosc2", blosc2.__version__, "numpy", np.__version__)
hashes = np.array([2**63 + 5, 2**64 - 7, 2**63 + 123, 3, 40, 2**40] * 1000, np.uint64)
array = blosc2.asarray(hashes)
assert np.array_equal(array[:], hashes) and np.array_equal((array + 1)[:6], hashes[:6] + 1)
cases = {
    "hash > 5": (array > 5, hashes > 5),
    "hash > np.uint64(5)": (array > np.uint64(5), hashes > 5),
    "hash / 2": (array / 2, hashes / 2),
    "hash // 2": (array // 2, hashes // 2),
    "hash % 10": (array % 10, hashes % 10),
    "hash >> 1": (array >> 1, hashes >> 1),
    "where(hash > 5, hash, 0)": (blosc2.where(array > 5, array, 0), np.where(hashes > 5, hashes, 0)),
}
small = hashes < 2**63
wrong = {}
for name, (lazy, right) in cases.items():
    whole, part = lazy[:], lazy[0 : len(hashes)]
    wrong[name] = [int((found != right).sum()) for found in (whole, part)]
    print(f"{name}: whole {whole[0]}, slice {part[0]}, NumPy {right[0]}; wrong of {len(hashes)}: {wrong[name]}")
    assert np.array_equal(whole[small], right[small]) and np.array_equal(part[small], right[small])
large = int((~small).sum())
for name in ("hash > 5", "hash > np.uint64(5)", "hash / 2"):
    assert wrong[name] == [0, large], "the behavior has changed"
for name in ("hash // 2", "hash >> 1", "where(hash > 5, hash, 0)"):
    assert wrong[name] == [large, large], "the behavior has changed"
assert min(wrong["hash % 10"]) > 0, "the behavior has changed"
PY
