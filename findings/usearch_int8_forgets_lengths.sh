#!/usr/bin/env bash
# usearch 2.26.6: an index of int8 for inner products or L2 distances ranks by direction: (0.5, 0) and (5, 0) are
#   equal.
#
# Expected: the nearest vectors by the metric that was asked for, up to rounding; dtype says how they are stored, and
#   bf16, f16 and the float8 types give the order of f32.
# Observed: with dtype="i8" each vector is divided by its length before it is rounded, whatever the metric. "ip" and
#   "l2sq" become the cosine: for the query (1, 0), L2 ranks (0.5, 0), (0, 0.1), (5, 0), (3, 4) in f32, and (5, 0)
#   with a distance of 0, and (0, 0.1) last, in i8. Inner products are near 16129, whatever the vectors are. get()
#   gives back vectors of length 1. No error.
# Why it matters: int8 is the type for large indexes of embeddings. Where lengths carry weight, as in retrieval by
#   inner products or in clusters of hidden states, it returns other neighbors, and the recall falls without a hint
#   why.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q usearch==2.26.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import usearch
from usearch.index import Index

print("usearch", usearch.__version__, "numpy", np.__version__)
vectors = np.array([[0.5, 0], [5, 0], [3, 4], [0, 0.1]], np.float32)
query = np.array([1, 0], np.float32)
right = {"ip": 1 - vectors @ query, "l2sq": ((vectors - query) ** 2).sum(1)}
for metric, distances in right.items():
    for dtype in ("f32", "f16", "bf16", "i8"):
        index = Index(ndim=2, metric=metric, dtype=dtype)
        index.add(np.arange(4), vectors)
        found = index.search(query, 4, exact=True)
        by_key = dict(zip(found.keys.tolist(), found.distances.tolist(), strict=True))
        kept = index.get(2, dtype="f32").round(2).tolist()
        print(f"{metric}, {dtype}: order {found.keys.tolist()}, distances {found.distances.round(2).tolist()}, exact "
              f"{distances[found.keys.astype(int)].round(2).tolist()}; (3, 4) is kept as {kept}")
        if dtype == "i8":
            assert by_key[0] == by_key[1] < by_key[2] < by_key[3], "the behavior has changed"
            assert 0.95 < float(np.hypot(*kept)) < 1.05, "the behavior has changed"
        else:
            assert found.keys.tolist() == np.argsort(distances).tolist() and kept == [3, 4]
PY
