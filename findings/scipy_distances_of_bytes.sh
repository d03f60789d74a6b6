#!/usr/bin/env bash
# SciPy 1.17.1: the cosine distance of two uint8 vectors is 0.43 by distance.cosine and 0.0026, the right one, by cdist.
#
# Expected: distance.f(u, v) is the number that cdist([u], [v], "f") has in its only cell. All functions of one module
#   treat types alike.
# Observed: euclidean, minkowski, cityblock, chebyshev and cosine compute in the type of the vectors: differences and
#   products of uint8 wrap around, and the results are floats that look like distances. sqeuclidean, correlation,
#   canberra and braycurtis convert first and are right, so euclidean is not the square root of sqeuclidean. cdist is
#   right for all. For int8, cosine is mostly 0.0, 2.0 or the error "math domain error", as the signs of the wrapped
#   products fall. (scipy/scipy#9961, open since 2019, has cosine and euclidean of uint8.)
# Why it matters: vector stores keep embeddings as uint8 or int8, to save three quarters of the memory.
#   Near-duplicates in a GPT-2 corpus, at a cosine distance of 0.003, are not found with a threshold, and another
#   function of the module finds them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import scipy
from scipy.spatial import distance

print("scipy", scipy.__version__, "numpy", np.__version__)
generator = np.random.default_rng(0)
embedding = generator.normal(size=768)
pair = np.stack([embedding, embedding + 0.3 * generator.normal(size=768)])
pair = np.round(128 + pair / np.abs(pair).max() * 127).astype(np.uint8)
found = {}
for name in ("cosine", "euclidean", "minkowski", "cityblock", "chebyshev", "sqeuclidean", "correlation", "canberra"):
    function = getattr(distance, name)
    one = float(function(*pair))
    of_floats, of_cdist = float(function(*pair.astype(float))), float(distance.cdist(pair[:1], pair[1:], name)[0, 0])
    print(f"{name}: {one:.4f} of uint8, {of_floats:.4f} of the same as floats, {of_cdist:.4f} by cdist")
    assert np.isclose(of_floats, of_cdist)
    found[name] = one / of_floats
wrong = {name for name, ratio in found.items() if not 0.99 < ratio < 1.01}
assert wrong == {"cosine", "euclidean", "minkowski", "cityblock", "chebyshev"}, "the behavior has changed"
assert found["cosine"] > 100 and found["euclidean"] > 10, "the behavior has changed"
PY
