#!/usr/bin/env bash
# tdigest 0.5.2.2: of 99 times 1.0 and one 100.0, the first percentile is -95.03 and the median 1.99.
#
# Expected: a percentile is between the smallest and the largest value, and the median of such numbers is 1.0. The
#   README says that the digest is designed for accurate estimates of percentiles.
# Observed: equal values are one cluster, and the percentiles within a cluster are read from a line whose slope comes
#   from the distance to its neighbors, as if the values were spread around. A cluster next to a far value reaches far
#   below the minimum. tdigest 0.1.3 of npm keeps to the minimum and has the same median. crick 0.0.8 and fastdigest
#   0.12.0 are right. Of 1,000 different numbers all are.
# Why it matters: latencies of a server, lengths of answers and scores have many equal values and few large ones. A
#   median that is twice the value of 99 in 100 requests, or a negative latency, comes out of an average day.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund tdigest@0.1.3 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv venv
venv/bin/pip --disable-pip-version-check install -q tdigest==0.5.2.2 crick==0.0.8 fastdigest==0.12.0 numpy==2.4.6
venv/bin/python - <<'PY'
import random
from importlib.metadata import version

import crick
import fastdigest
import numpy as np
import tdigest

print("tdigest", version("tdigest"), "crick", version("crick"), "fastdigest", version("fastdigest"))
PERCENTS = [1, 50, 90]


def found(values: list[float]) -> list[float]:
    digest = tdigest.TDigest()
    digest.batch_update(values)
    return [round(digest.percentile(percent), 4) for percent in PERCENTS]


def others(values: list[float]) -> list[list[float]]:
    digest = crick.TDigest()
    digest.update(np.array(values))
    fast = fastdigest.TDigest.from_values(values)
    return [[float(each.quantile(percent / 100)) for percent in PERCENTS] for each in (digest, fast)]


for values, expected in [
    ([1.0] * 99 + [100.0], [-95.03, 1.99, 81.19]),
    ([1.0] * 100, [1.0, 1.0, 1.0]),
]:
    print(f"{values.count(1.0)} ones of {len(values)} numbers:", found(values), "others", others(values))
    assert found(values) == expected, "the behavior has changed"
    assert others(values) == [[1, 1, 1], [1, 1, 1]]
generator = random.Random(0)
values = [generator.random() for _ in range(1000)]
assert np.allclose(found(values), np.percentile(values, PERCENTS), atol=0.01)
PY
cat > run.js <<'JS'
const assert = require("node:assert");
const { TDigest } = require("tdigest");

const digest = new TDigest();
digest.push([...Array(99).fill(1), 100]);
digest.compress();
const found = [0.01, 0.5].map((part) => digest.percentile(part));
console.log("tdigest of npm:", found);
assert(found[0] === 1 && Math.abs(found[1] - 1.99) < 1e-9, "the behavior has changed");
JS
node run.js
